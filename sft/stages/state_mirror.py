"""Owns the copies of full states in storage (`training.state_uri`), from which a fresh machine resumes.

    URI/<state id>/<key>/step_N/…    as on the disk; ``state.json`` arrives last, and what lacks it is no state

The ranks write to the disk and go on; a thread of the process that watches them brings the newest state there. A copy
that fails is said and tried again with the next state: it never stops a training. What comes back is somebody's data:
each file has to have the digest of ``state.json``, and the ranks read nothing of it that could run.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sft.adapters.instructlab.layout import FINISHED, METRICS, STATE_FACTS, STATE_FORMAT, STATE_PREFIX, STATES
from sft.adapters.storage_folder import StorageFolder
from sft.artifacts import LOGS_NAME
from sft.artifacts.training import on_ranks
from sft.errors import SftError
from sft.files import sha256_file, sync, write_json
from sft.planning.resources import Resources
from sft.redaction import redact
from sft.stages.earlier_states import WORK, layout_in, layout_of, link_files, states_of

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
_ORIGINS = "mirrored_at.json"
"""Note in the folder of the ranks' work: folders of the mirror that hold states of this training."""
_FILE = re.compile(rf"__\d+_\d+\.distcp|\.metadata|{re.escape(METRICS)}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class StateMirror:
    """The copies of one training's full states.

    Args:
        uri: `training.state_uri`.
        state_id: What the states of this training are known by.
        key: Of the training's result in the store.
        out: Its staging folder.
        say: Called with a line that stays.

    Attributes:
        failures: A line for each state that could not be brought there.
    """

    def __init__(self, uri: str, state_id: str, key: str, out: Path, say: Callable[[str], None]) -> None:
        self._uri, self._state_id, self._own = redact(uri), state_id, f"{state_id}/{key or 'run'}"
        self._address = uri
        self._work = out / WORK
        self._say = say
        self._mirrored = 0
        self.failures: list[str] = []

    def fetch(self, resources: Resources, *, keeps_models: bool) -> None:
        """Bring the newest whole state here if none is here yet, and say what was found.

        Args:
            resources: What is trained on here.
            keeps_models: Whether the recipe keeps models on the way, which are not in the mirror.

        A state of the same ranks with another sharding strategy is another experiment's: it is not used.
        """
        if any((self._work / STATES).glob(f"{STATE_PREFIX}*")):
            return
        try:
            folder = StorageFolder(self._address)
            candidates = [
                (int(name.removeprefix(STATE_PREFIX)), f"{self._state_id}/{key}", name)
                for key in folder.names(self._state_id)
                for name in folder.names(f"{self._state_id}/{key}")
                if re.fullmatch(rf"{STATE_PREFIX}\d{{1,12}}", name)
            ]
            for _, origin, name in sorted(candidates, reverse=True):
                if self._fetch_one(folder, origin, name, resources):
                    if keeps_models:
                        self._say("  models that were kept before it are not there: checkpoints/ begins after it")
                    return
            others = [name for name in folder.names() if name != self._state_id]
        except SftError as error:
            self._say(
                f"  {self._uri} can't be asked for a full state, so the training begins at the start: {error.message}"
            )
            return
        of_others = f"; those of {len(others)} other trainings lie there" if others else ""
        self._say(f"  {self._uri} has no full state that this training can use{of_others}")

    def _fetch_one(self, folder: StorageFolder, origin: str, name: str, resources: Resources) -> bool:
        """Bring a state here; return whether it is whole and fits."""
        place = f"{origin}/{name}"
        partial, target = (self._work / STATES / each for each in (f".{name}", name))
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            content = folder.read(f"{place}/{STATE_FACTS}")
            facts = _checked(content, self._state_id, name)
            if trouble := _misfit(facts, resources):
                self._say(f"  {self._uri}/{place} is not used: {trouble}")
                return False
            for file, digest in facts["files"].items():
                folder.download(f"{place}/{file}", partial / file)
                if sha256_file(partial / file) != digest:
                    raise ValueError(f"{file} has not the bytes that were saved")
                sync(partial / file)
            (partial / STATE_FACTS).write_bytes(content)
            sync(partial / STATE_FACTS)
            partial.rename(target)
        except (SftError, ValueError) as error:
            self._say(f"  {self._uri}/{place} is not used: {_reason(error)}")
            return False
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self._mirrored = facts["position"]["step"]
        write_json(self._work / _ORIGINS, {"folders": [origin]})
        saved_on = on_ranks(facts["stretches"][-1])
        self._say(f"  takes the full state of step {self._mirrored} from {self._uri}, saved on {saved_on}")
        return True

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Bring each new state there while the block lasts, and at its end the last, unless the training is done."""
        ended = threading.Event()

        def work() -> None:
            while not ended.wait(_LOOK_SECONDS):
                self._upload_newest()

        thread = threading.Thread(target=work, name="state mirror", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            if not (self._work.parent / LOGS_NAME / FINISHED).exists():
                self._upload_newest()

    def _upload_newest(self) -> None:
        newest = next(iter(states_of(self._work.parent)), None)
        if newest is None or newest.step <= self._mirrored:
            return
        before, self._mirrored = self._mirrored, newest.step
        copy = self._work / "mirror"
        try:
            link_files(newest.folder, copy)  # the ranks may remove it meanwhile
            self._upload(copy, newest.folder.name)
        except (SftError, OSError) as error:
            if not newest.folder.exists():  # the ranks have removed it while it was copied: a newer one is there
                self._mirrored = before
                return
            line = f"the full state of step {newest.step} is not in {self._uri}: {_reason(error)}"
            self.failures.append(line)
            log.warning("%s", line)
            self._say(f"  {line}; the next one is tried again")
        finally:
            shutil.rmtree(copy, ignore_errors=True)

    def _upload(self, state: Path, name: str) -> None:
        folder = StorageFolder(self._address)
        folder.remove(f"{self._own}/{name}/{STATE_FACTS}")
        for file in sorted(path for path in state.iterdir() if path.name != STATE_FACTS):
            folder.upload(file, f"{self._own}/{name}/{file.name}")
        folder.upload(state / STATE_FACTS, f"{self._own}/{name}/{STATE_FACTS}")
        log.info("full state %s is in %s", name, self._uri)
        kept = {path.name for path in (self._work / STATES).glob(f"{STATE_PREFIX}*")} | {name}
        for older in set(folder.names(self._own)) - kept:
            folder.remove(f"{self._own}/{older}/{STATE_FACTS}")
            folder.remove(f"{self._own}/{older}")

    def remove(self) -> None:
        """Remove the copies of a training that has ended, as its states on the disk are."""
        note = self._work / _ORIGINS
        origins = json.loads(note.read_text(encoding="utf-8"))["folders"] if note.exists() else []
        try:
            folder = StorageFolder(self._address)
            for place in dict.fromkeys([self._own, *origins]):
                folder.remove(place)
            if not folder.names(self._state_id):
                folder.remove(self._state_id)
        except SftError as error:
            self._say(f"  the full states in {self._uri}/{self._state_id} stay there, remove them: {error.message}")
        else:
            self._say(f"  the full states in {self._uri} are removed: the training has ended")


def _reason(error: Exception) -> str:
    """Return what went wrong without the fix, which is for those who read data from storage."""
    return error.message if isinstance(error, SftError) else str(error)


def _checked(content: bytes, state_id: str, name: str) -> dict[str, Any]:
    """Return what a state says of itself.

    Raises:
        ValueError: It says something that no state of this training says.
    """
    try:
        facts: dict[str, Any] = json.loads(content)
        is_ours = facts["format"] == STATE_FORMAT and facts["state_id"] == state_id
        is_sound = (
            f"{STATE_PREFIX}{int(facts['position']['step'])}" == name
            and all(_FILE.fullmatch(file) and _SHA256.fullmatch(digest) for file, digest in facts["files"].items())
            and all(isinstance(facts["stretches"][-1][fact], int) for fact in ("num_nodes", "num_ranks"))
            and isinstance(facts["stretches"][-1].get("context_parallel", 1), int)
        )
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ValueError(f"{STATE_FACTS} can't be read") from error
    if not is_ours:
        raise ValueError("it is of another training, or another version of sft wrote it")
    if not is_sound:
        raise ValueError(f"{STATE_FACTS} says what no state says")
    return facts


def _misfit(facts: Mapping[str, Any], resources: Resources) -> str | None:
    last = facts["stretches"][-1]
    is_same_layout = layout_in(last) == layout_of(resources)
    if is_same_layout and last.get("strategy") != resources.strategy.value:
        return f"it was saved on the same ranks with {last.get('strategy')}, another experiment"
    return None
