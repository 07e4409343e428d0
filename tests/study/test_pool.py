"""Jobs side by side: all are run, failures are told, nothing is left running."""

from __future__ import annotations

import os
import time

import pytest

from mutua.study.pool import Job, JobError, run_jobs


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Makes a job of some lines of Python."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(name: str, code: str) -> Job:
        (tmp_path / f"{name}.py").write_text(code)
        return Job(name, (name,), tmp_path / "logs" / f"{name}.txt")

    return make


def test_all_are_run_so_many_at_once(job, tmp_path):
    code = "import os, time; time.sleep(1); print(os.environ['OMP_NUM_THREADS'])"
    jobs = [job(f"job_{n}", code) for n in range(3)]
    seen = []
    run_jobs(jobs, 2, lambda running, done: seen.append((len(running), done)))
    assert [one.log.read_text() for one in jobs] == ["1\n"] * 3
    assert max(running for running, _ in seen) == 2
    assert seen[-1] == (0, 3)


def test_a_failure_is_told_and_the_others_go_on(job):
    jobs = [job("bad", "raise SystemExit('no such thing')"), job("good", "print('done')")]
    with pytest.raises(JobError, match=r"bad failed .*bad.txt\):\nno such thing"):
        run_jobs(jobs, 1, lambda running, done: None)
    assert jobs[1].log.read_text() == "done\n"


def test_ctrl_c_stops_all_and_lets_them_save(job, tmp_path):
    code = (
        "import os, pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(0)))\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(60)"
    )
    jobs = [job("first", code), job("second", code)]

    def interrupt(running, done):
        if all(one.log.is_file() and one.log.read_text() for one in jobs):
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, 2, interrupt)
    assert time.monotonic() - started < 30
    for one in jobs:
        pid, saved = one.log.read_text().split()
        assert saved == "saved"
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
