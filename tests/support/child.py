"""Tests that run in a process of their own, which is started once and reports each test as any other.

A directory's conftest.py hands its items to `Child.run`; the child is pytest over that directory, started
with the environment that the tests need, and runs what node ids it is sent in `Server`.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

_PIPES = "FASTMODEL_TESTS_PIPES"
"""Names, in the child's environment, the descriptors that it reads node ids from and writes reports to."""


def is_child() -> bool:
    """Does this process serve a parent?"""
    return _PIPES in os.environ


class Child:
    """A pytest over one directory, in an environment of its own."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self._directory, self._environment = directory, environment
        self._process: subprocess.Popen | None = None

    def run(self, item: pytest.Item) -> None:
        """Run the item over there and report it here."""
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)

    def _reports(self, item: pytest.Item):
        if self._process is None:
            self._start(item.config)
        with contextlib.suppress(BrokenPipeError):
            print(item.nodeid, file=self._requests, flush=True)
        with contextlib.suppress(EOFError):
            while (data := pickle.load(self._answers)) is not None:
                yield item.config.hook.pytest_report_from_serializable(
                    config=item.config, data=data
                )
            return
        self._output.seek(0)
        yield pytest.TestReport(
            item.nodeid,
            item.location,
            dict.fromkeys(item.keywords, 1),
            outcome="failed",
            longrepr=f"the process that runs these tests ended:\n{self._output.read()}",
            when="call",
        )
        self.stop()

    def _start(self, config: pytest.Config) -> None:
        request, ours = os.pipe()
        answer, theirs = os.pipe()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        environment |= {**self._environment, _PIPES: f"{request} {theirs}"}
        # For what the child says beside its reports, shown where it dies.
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(self._directory)],
            cwd=config.rootpath,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            pass_fds=[request, theirs],
        )
        os.close(request)
        os.close(theirs)
        self._requests, self._answers = os.fdopen(ours, "w"), os.fdopen(answer, "rb")

    def stop(self) -> None:
        """End the child."""
        if self._process is None:
            return
        with contextlib.suppress(BrokenPipeError):
            self._requests.close()
        self._process.wait()
        self._answers.close()
        self._output.close()
        self._process = None


class Server:
    """The plugin of the child: it runs the items that the parent names, one after the other."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Answer each node id with reports, one by one, and None behind the last."""
        items = {item.nodeid: item for item in session.items}
        request, answer = map(int, os.environ[_PIPES].split())
        with os.fdopen(request) as requests, os.fdopen(answer, "wb") as self._answers:
            for line in requests:
                item = items[line.rstrip("\n")]
                session.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
                self._send(None)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Send a report."""
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._send(data)

    def _send(self, data: dict | None) -> None:
        pickle.dump(data, self._answers)
        self._answers.flush()
