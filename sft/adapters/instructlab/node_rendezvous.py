"""Owns how the nodes of a training meet on the shared volume before each start of their ranks.

A cluster creates a new pod while the old one still saves its state, and restarts a lost node while the others wait in a
collective. torchrun's static rendezvous would let such a node into the old group, where it hangs. So a node that is
ready writes ``gather/node_N.json`` and waits; when all are ready, node 0 writes the members of the group to
``gather/group.json``. If a member is ready again while the group trains, the group is broken: the others end their
ranks at once, and are ready, too. A node that has lost the others waits for them like this, in its process: only the
lost one begins anew.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from sft.adapters.instructlab.layout import STOP, STOPPED
from sft.adapters.instructlab.monitor import RankLost, last_change
from sft.files import write_json

FOLDER = "gather"

_GROUP = "group.json"
_POLL_SECONDS = 0.5
_SHOWN_NODES = 8
_SAVING_SECONDS = 60.0
"""Longest time in which a state that is being saved does not grow."""


class NodeRendezvous:
    """The rendezvous as one node sees it.

    Args:
        logs: The run's folder for logs, on the shared volume.
        node: Index of this node.
        num: Number of nodes.
    """

    def __init__(self, logs: Path, node: int, num: int) -> None:
        self._logs, self._folder, self._node, self._num = logs, logs / FOLDER, node, num
        self._id = ""
        self._group: dict[str, str] = {}

    def wait(self, check: Callable[[], None], say: Callable[[str], None], clear: Callable[[], None]) -> None:
        """Return when all nodes are ready.

        Args:
            check: Called regularly; an exception of it ends the wait.
            say: Prints a line that says which nodes are missing.
            clear: Called on node 0 when all are ready, before any starts: removes the last group's notes.
        """
        if self._node == 0:
            self._wait_for_save()
        if self._num == 1:
            clear()
            return
        self._folder.mkdir(exist_ok=True)
        self._id = uuid.uuid4().hex  # each time another: the group that it was in is over
        note = self._folder / f"node_{self._node}.json"
        if self._node == 0:
            (self._folder / _GROUP).unlink(missing_ok=True)
        write_json(note, {"id": self._id})
        printed = ""
        try:
            while not self._is_complete(clear):
                if (text := self._waits_for()) != printed:
                    say(text)
                    printed = text
                check()
                time.sleep(_POLL_SECONDS)
        finally:
            if self._ready().get(str(self._node)) == self._id:  # otherwise another pod has replaced this one
                note.unlink()

    def check(self) -> None:
        """Raise if a member of the group has left it.

        Raises:
            RankLost: A node of the group is ready to begin anew.
        """
        if self._num == 1 or self._is_saving():
            return
        left = [node for node, own_id in self._ready().items() if self._group.get(node) != own_id]
        if left:
            raise RankLost(f"node {left[0]} was lost, or has lost the others, and is ready to begin anew")

    def _is_complete(self, clear: Callable[[], None]) -> bool:
        if self._node == 0:
            ready = self._ready()
            if len(ready) < self._num or ready["0"] != self._id:
                return False
            self._group = ready
            clear()
            write_json(self._folder / _GROUP, ready)
            return True
        try:
            self._group = json.loads((self._folder / _GROUP).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return False
        return self._group.get(str(self._node)) == self._id

    def _ready(self) -> dict[str, str]:
        """Return the nodes that are ready, each with the id by which it waits."""
        ids = {}
        for note in sorted(self._folder.glob("node_*.json"), key=lambda path: int(path.stem.removeprefix("node_"))):
            try:
                ids[note.stem.removeprefix("node_")] = str(json.loads(note.read_text(encoding="utf-8"))["id"])
            except FileNotFoundError:
                continue
        return ids

    def _waits_for(self) -> str:
        if self._node:
            return "ready; waiting for node 0"
        missing = sorted({str(node) for node in range(self._num)} - self._ready().keys(), key=int)
        more = f" and {len(missing) - _SHOWN_NODES} more" if len(missing) > _SHOWN_NODES else ""
        return f"waiting for {'node' if len(missing) == 1 else 'nodes'} {', '.join(missing[:_SHOWN_NODES])}{more}"

    def _wait_for_save(self) -> None:
        """Wait while the pod that this one replaces, and that was asked to stop, saves its state."""
        while self._is_saving():
            time.sleep(_POLL_SECONDS)

    def _is_saving(self) -> bool:
        if not (self._logs / STOP).exists() or (self._logs / STOPPED).exists():
            return False
        return time.time() - last_change(self._logs.parent) < _SAVING_SECONDS
