"""Many independent tasks, in processes of this machine or on a cluster, whose failures are told one by one.

A task is a key and the arguments of one function. `Processes` and `Cluster` run them and yield an `Outcome` each, in
the order in which they end: what the function returned, or why there is nothing.
"""

from __future__ import annotations

from phdlspec.work.cluster import Cluster
from phdlspec.work.outcome import Outcome, Runner, TaskFailed, TimeIsUp, WorkerDied, attempt
from phdlspec.work.processes import Processes, refuse_in_worker

__all__ = [
    "Cluster", "Outcome", "Processes", "Runner", "TaskFailed", "TimeIsUp", "WorkerDied", "attempt", "refuse_in_worker",
]  # fmt: skip
