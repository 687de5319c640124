"""fio: one run, its rates and latencies."""

import json

from cases import KIB
from lib import proc

# What a bio costs on its way shall not drown in what its submission costs: bios are sent in batches,
# buffers and files are registered, the clock is asked only where latencies are wanted.
COMMON = {
    "ioengine": "io_uring",
    "direct": 1,
    "thread": 1,
    "group_reporting": 1,
    "iodepth": 16,
    "randrepeat": 1,
    "allow_file_create": 0,
    "file_service_type": "random",
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

    def percentile(self, percent):
        """Of the time that reads took, in seconds."""
        return self.report["read"]["clat_ns"]["percentile"][f"{percent:f}"] / 1e9


def _options(given, devices, block, seconds, engine, exact):
    options = {**COMMON, "ioengine": engine, **given}
    if options["ioengine"] == "io_uring":
        options.update(URING)
    if options["iodepth"] > 1:
        options["iodepth_batch_submit"] = min(BATCH, options["iodepth"])
        options["iodepth_batch_complete_min"] = 1
        options["iodepth_batch_complete_max"] = options["iodepth"]
    if options.get("blockalign") == "block":
        options["blockalign"] = block
    elif options["rw"].startswith("rand"):
        options["norandommap"] = 1
    if "end_fsync" not in options:
        options.update(time_based=1, runtime=f"{round(seconds * 1000)}ms", ramp_time=f"{round(seconds * 200)}ms")
    if not exact:
        options["gtod_reduce"] = 1
    options["filename"] = ":".join(str(device) for device in devices)
    return options


def run(given, devices, block=64 * KIB, seconds=1.0, beside=None, engine="io_uring", exact=False, size=None):
    """Run the load on the devices; beside: (load, device) at the same time. exact: with latencies."""
    groups = [("main", _options(given, devices, block, seconds, engine, exact))]
    if size:
        groups[0][1]["io_size"] = size
    if beside:
        load, device = beside
        groups.append(("beside", {**_options(load, [device], block, seconds, engine, True), "new_group": 1}))
    words = ["fio", "--output-format=json"]
    for name, options in groups:
        words.append(f"--name={name}")
        words += [f"--{key}={value}" for key, value in options.items()]
    said = proc.run(*words, timeout=600).out
    # Remarks may stand before the report.
    report = json.loads(said[said.index("{") :])
    jobs = {job["jobname"]: job for job in report["jobs"]}
    errors = [name for name, job in jobs.items() if job["error"]]
    assert not errors, f"fio met errors in {errors}: {said[:500]}"
    return Job(jobs["main"])
