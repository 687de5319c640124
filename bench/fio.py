"""fio: one run, its rates and latencies."""

import json
import os
import random

from cases import KIB
from lib import io, proc

# What a bio costs on its way shall not drown in what its submission costs: bios are sent in batches,
# buffers and files are registered, the clock is asked only where latencies are wanted. Jobs are processes:
# of a process's threads User Mode Linux lets one at a time out of the kernel, and the others spin until then.
COMMON = {
    "ioengine": "io_uring",
    "direct": 1,
    "group_reporting": 1,
    "iodepth": 16,
    "randrepeat": 1,
    "allow_file_create": 0,
    "file_service_type": "random",
    # Flushing what nothing has cached, and counting below, cost time for each of many devices.
    "invalidate": 0,
    "disk_util": 0,
}
BATCH = 16
URING = {"fixedbufs": 1, "registerfiles": 1}


class Job:
    """fio's account of one load."""

    def __init__(self, report):
        self.report = report
        parts = [report[way] for way in ("read", "write")]
        self.ios = sum(part["total_ios"] for part in parts)
        self.rate = sum(part["iops"] for part in parts)
        self.seconds = report["job_runtime"] / 1000

    def percentile(self, percent):
        """Of the time that reads took, in seconds."""
        return self.report["read"]["clat_ns"]["percentile"][f"{percent:f}"] / 1e9


def _options(load, devices, block, seconds, engine, exact):
    """Of one load; without seconds it goes over its devices once."""
    options = {**COMMON, "ioengine": engine, **load}
    if engine == "io_uring":
        options.update(URING)
    if options["iodepth"] > 1:
        options.setdefault("iodepth_batch_submit", min(BATCH, options["iodepth"]))
        options["iodepth_batch_complete_min"] = 1
        options["iodepth_batch_complete_max"] = options["iodepth"]
    if options.get("blockalign") == "block":
        options["blockalign"] = block
    elif options["rw"].startswith("rand"):
        options["norandommap"] = 1
    if seconds:
        options.update(time_based=1, runtime=f"{round(seconds * 1000)}ms", ramp_time=f"{round(seconds * 100)}ms")
    if not exact:
        options["gtod_reduce"] = 1
    options["filename"] = ":".join(str(device) for device in devices)
    return options


def _by_list(options, directory, size, times):
    """The same with a list of offsets: fio itself visits aligned places more than once."""
    step = options.pop("blockalign")
    places = list(range(0, size, step))
    random.Random(1).shuffle(places)
    name = os.path.join(directory, "fio.log")
    with open(name, "w", encoding="ascii") as file:
        file.write("fio version 2 iolog\n/list add\n/list open\n")
        for _ in range(times):
            file.writelines(f"/list write {place} 4096\n" for place in places)
        file.write("/list close\n")
    options.update(read_iolog=name, replay_redirect=options.pop("filename"))
    options.pop("registerfiles", None)  # fio registers before the list opens
    return options


def run(load, devices, block=64 * KIB, seconds=None, beside=None, engine="io_uring", exact=False, directory=None, times=1):
    """
    Run the load on the devices, for some seconds or, without, over each of them as many times.
    beside: (load, device) at the same time. exact: with latencies.
    """
    main = _options(load, devices, block, seconds, engine, exact)
    if not seconds and "blockalign" in main:
        main = _by_list(main, directory, io.size(devices[0]), times)
    elif not seconds:
        main["loops"] = times
    words = ["fio", "--output-format=json", "--name=main", *_words(main)]
    if beside:
        load, device = beside
        other = _options(load, [device], block, seconds, engine, exact=True)
        words += ["--name=beside", "--new_group=1", *_words(other)]
    said = proc.run(*words, timeout=600).out
    # Remarks may stand before the report.
    report = json.loads(said[said.index("{") :])
    jobs = {job["jobname"]: job for job in report["jobs"]}
    errors = [name for name, job in jobs.items() if job["error"]]
    assert not errors, f"fio met errors in {errors}: {said[:500]}"
    return Job(jobs["main"])


def _words(options):
    return [f"--{key}={value}" for key, value in options.items()]
