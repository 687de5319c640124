"""dkms.conf: which kernels it takes."""

import os

import pytest
from lib import proc

CONF = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../dkms.conf")


def taken(directory, kernel, arch="x86_64", config="CONFIG_DM_THIN_PROVISIONING=m\n"):
    """Whether DKMS would build for this kernel, asked in DKMS's way; and what the file complains of."""
    with open(os.path.join(directory, ".config"), "w", encoding="ascii") as file:
        file.write(config)
    done = proc.run(
        "bash", "-c",
        'kernelver=$1 arch=$2 kernel_source_dir=$3; . "$4"\n'
        "[[ $kernelver =~ $BUILD_EXCLUSIVE_KERNEL && $arch =~ $BUILD_EXCLUSIVE_ARCH ]]",
        "dkms", kernel, arch, directory, CONF, check=False,
    )  # fmt: skip
    return done.status == 0, done.err


@pytest.mark.parametrize("kernel", ["6.1.0-56-amd64", "6.12.118+deb13-amd64", "7.3.4+deb13-rt-amd64", "6.9", "7.0.0"])
def test_kernels_that_are_supported(tmp_path, kernel):
    assert taken(tmp_path, kernel) == (True, "")


@pytest.mark.parametrize("kernel", ["5.10.0-30-amd64", "6.0.12", "4.6.1", "8.0.0", "16.1.0"])
def test_kernels_that_are_not(tmp_path, kernel):
    assert taken(tmp_path, kernel) == (False, "")


def test_machines_of_32_bits(tmp_path):
    assert taken(tmp_path, "6.12.0", arch="i686") == (False, "")
    assert taken(tmp_path, "6.12.0", arch="aarch64") == (True, "")


def test_kernels_that_have_it_built_in(tmp_path):
    built, said = taken(tmp_path, "6.12.0", config="CONFIG_DM_THIN_PROVISIONING=y\n")
    assert not built and "6.12.0" in said and "built in" in said and "nothing can replace" in said


def test_the_initramfs_is_made_anew_for_the_kernel(tmp_path):
    hooks = proc.run("bash", "-c", 'kernelver=6.12.0 kernel_source_dir=/none; . "$1"; echo "$POST_INSTALL|$POST_REMOVE"', "x", CONF).out
    assert hooks.strip() == "scripts/thin-module refresh 6.12.0|scripts/thin-module refresh 6.12.0"
