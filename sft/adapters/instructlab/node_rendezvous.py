"""How the nodes of a training find together on the shared volume before each start of their ranks.

A cluster makes a new pod while the old one still saves its state, and starts a lost node again while the others wait in
a collective. torchrun's static rendezvous would let such a node into the old group, where it hangs. So a node that is
ready says so in ``gather/node_N.json`` and waits; node 0, when all are ready, names who belongs together in
``gather/group.json``. A node that is ready while a group works was lost: the others end at once, not after a timeout.
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
_LOOK_SECONDS = 0.5
_SAVING_SECONDS = 60.0
"""A state that is being saved grows at least once in this time."""


class NodeRendezvous:
    """One node's part in it.

    Args:
        logs: The run's folder for logs, on the shared volume.
        node: This one.
        num: How many there are.
    """

    def __init__(self, logs: Path, node: int, num: int) -> None:
        self._logs, self._folder, self._node, self._num = logs, logs / FOLDER, node, num
        self._own = uuid.uuid4().hex
        self._group: dict[str, str] = {}

    def wait(self, look: Callable[[], None], tell: Callable[[str], None], clear: Callable[[], None]) -> None:
        """Returns when all nodes are ready.

        Args:
            look: Called now and then; what it raises ends the wait.
            tell: Takes a line that says who is waited for.
            clear: Called on node 0 when all are ready, before any begins: takes the last group's notes away.
        """
        if self._node == 0:
            self._let_others_save()
        if self._num == 1:
            clear()
            return
        self._folder.mkdir(exist_ok=True)
        own = self._folder / f"node_{self._node}.json"
        if self._node == 0:
            (self._folder / _GROUP).unlink(missing_ok=True)
        else:
            write_json(own, {"id": self._own})
        told = ""
        try:
            while not self._is_complete(clear):
                if (text := self._waits_for()) != told:
                    tell(text)
                    told = text
                look()
                time.sleep(_LOOK_SECONDS)
        finally:
            if self._ready().get(str(self._node)) == self._own:  # else another pod has taken this one's place
                own.unlink()

    def check(self) -> None:
        """Whether the group is still that which began.

        Raises:
            RankLost: A node of it began again.
        """
        if self._num == 1 or self._is_saving():
            return
        again = [node for node, own in self._ready().items() if self._group.get(node) != own]
        if again:
            raise RankLost(f"node {again[0]} was lost and is ready again")

    def _is_complete(self, clear: Callable[[], None]) -> bool:
        if self._node == 0:
            ready = self._ready()
            if len(ready) < self._num - 1:
                return False
            self._group = ready
            clear()
            write_json(self._folder / _GROUP, ready)
            return True
        try:
            self._group = json.loads((self._folder / _GROUP).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return False
        return self._group.get(str(self._node)) == self._own

    def _ready(self) -> dict[str, str]:
        """Nodes that are ready, with what they call themselves this time."""
        found = {}
        for node in range(1, self._num):
            try:
                note = json.loads((self._folder / f"node_{node}.json").read_text(encoding="utf-8"))
            except FileNotFoundError:
                continue
            found[str(node)] = str(note["id"])
        return found

    def _waits_for(self) -> str:
        if self._node:
            return "ready; waits for node 0"
        missing = sorted({str(node) for node in range(1, self._num)} - self._ready().keys(), key=int)
        return f"waits for node {', '.join(missing)}"

    def _let_others_save(self) -> None:
        """Waits for the state that this node's own forerunner, told to stop, is saving."""
        while self._is_saving():
            time.sleep(_LOOK_SECONDS)

    def _is_saving(self) -> bool:
        if not (self._logs / STOP).exists() or (self._logs / STOPPED).exists():
            return False
        return time.time() - last_change(self._logs.parent) < _SAVING_SECONDS
