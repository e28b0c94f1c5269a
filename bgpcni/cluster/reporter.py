"""The node's events as Events of Kubernetes, on its pods and on the Node, as `kubectl describe` shows them.

They are counted and bounded as client-go does it: the same event again raises a count, many that differ in their words
only become one, and each object has a number of events that fills up slowly. An API server that is away costs events,
and nothing else.
"""

from __future__ import annotations

import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bgpcni.cluster.kubernetes import Api, Object, Resource, Trouble
from bgpcni.events import Event, Events, Kind

log = logging.getLogger(__name__)
COMPONENT = "bgpcni"
OF_PODS = frozenset(
    [Kind.ATTACHMENT_UP, Kind.ORPHAN, Kind.ADD_FAILED, Kind.CONFLICT, Kind.ROUTE_ANNOUNCED, Kind.ROUTE_REFUSED]
)
OF_NODES = frozenset(
    [
        Kind.SESSION_UP, Kind.SESSION_DOWN, Kind.SPEAKER_STARTED, Kind.SPEAKER_ENDED, Kind.EXPORTER_LATE,
        Kind.EXPORTER_OK, Kind.PROBLEM, Kind.MENDED, Kind.RELOAD_REFUSED, Kind.AGENT_STARTED,
    ]
)  # fmt: skip
BURST, REFILL_SECONDS = 25, 300.0
"""How many events one object may have at once, and how long it takes until it may have one more."""
ALIKE, ALIKE_SECONDS = 10, 600.0
"""More than so many events within this time that differ in their words only become one."""
REMEMBERED = 4096
IDLE_SECONDS = 3600.0
LONGEST = 1024
"""Characters of a message that the API takes."""


class About(NamedTuple):
    """The object that an event is about."""

    kind: str
    name: str
    namespace: str = ""
    uid: str = ""


def about(event: Event, node: str) -> About | None:
    """The pod or the node that an event is about; None if Kubernetes is not told of it."""
    if event.kind in OF_PODS and event.pod:
        namespace, _, name = event.pod.partition("/")
        return About("Pod", name, namespace, event.pod_uid)
    return About("Node", node, uid=node) if event.kind in OF_NODES else None


class Told(NamedTuple):
    """What is to be written: a new Event, or one more of an earlier one, which is called `name`."""

    name: str
    times: int
    first: str
    message: str


@dataclass(slots=True)
class _Bucket:
    tokens: float = BURST
    filled: float = 0.0


@dataclass(slots=True)
class _Alike:
    since: float
    words: set[str] = field(default_factory=set)


class Correlator:
    """Which Event of Kubernetes an event becomes, if any. Pure, but for the names that it gives."""

    def __init__(self, run: str = "") -> None:
        self._run = run or os.urandom(4).hex()
        self._number = 0
        self._told: OrderedDict[tuple[About, Kind, str], Told] = OrderedDict()
        self._alike: OrderedDict[tuple[About, Kind], _Alike] = OrderedDict()
        self._buckets: OrderedDict[About, _Bucket] = OrderedDict()

    def told(self, subject: About, event: Event, now: float) -> Told | None:
        """None: there have been too many of this object."""
        if not self._has_token(subject, now):
            return None
        message = event.text[:LONGEST]
        if self._is_one_of_many(subject, event.kind, message, now):
            message = "(combined from similar events)"
        key = subject, event.kind, message
        before = self._told.pop(key, None)
        if before is None:
            self._number += 1
            found = Told(f"{subject.name}.{self._run}{self._number:x}", 1, event.time, message)
        else:
            found = before._replace(times=before.times + 1)
        if message.startswith("(combined"):
            found = found._replace(message=f"{message}: {event.text}"[:LONGEST])
        self._told[key] = found
        _forget_oldest(self._told)
        return found

    def forget(self, told: Told) -> None:
        """The server does not have this Event any more: the next one is a new one."""
        for key in [key for key, known in self._told.items() if known.name == told.name]:
            del self._told[key]

    def _has_token(self, subject: About, now: float) -> bool:
        bucket = self._buckets.pop(subject, None) or _Bucket(filled=now)
        bucket.tokens = min(BURST, bucket.tokens + (now - bucket.filled) / REFILL_SECONDS)
        bucket.filled = now
        self._buckets[subject] = bucket
        _forget_oldest(self._buckets)
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    def _is_one_of_many(self, subject: About, kind: Kind, message: str, now: float) -> bool:
        alike = self._alike.pop((subject, kind), None)
        if alike is None or now - alike.since > ALIKE_SECONDS:
            alike = _Alike(now)
        alike.words.add(message)
        self._alike[subject, kind] = alike
        _forget_oldest(self._alike)
        return len(alike.words) > ALIKE


def _forget_oldest(known: OrderedDict[Any, Any]) -> None:
    while len(known) > REMEMBERED:
        known.popitem(last=False)


class Reporter:
    """`run` in a thread of its own, until the events are closed."""

    def __init__(self, api: Api, events: Events, node: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._api, self._events, self._node, self._clock = api, events, node, clock
        self._correlator = Correlator()
        self._trouble = ""

    def run(self) -> None:
        last = 0
        while not self._events.closed:
            batch = self._events.wait(last, IDLE_SECONDS)
            last = batch.last
            for event in batch.events:
                if self._events.closed:
                    return
                self.report(event)

    def report(self, event: Event) -> None:
        """Write it, if Kubernetes is to be told of it. A server that refuses or is away is told of no earlier event."""
        subject = about(event, self._node)
        if subject is None or (told := self._correlator.told(subject, event, self._clock())) is None:
            return
        try:
            self._write(subject, event, told)
            self._trouble = ""
        except Trouble as trouble:
            if str(trouble) != self._trouble:
                log.warning("events cannot be told to the API server: %s", trouble)
            self._trouble = str(trouble)
        except Exception:  # one event is lost, and the next ones are told
            log.exception("an event cannot be told to the API server because of a defect")

    def _write(self, subject: About, event: Event, told: Told) -> None:
        resource = Resource("", "v1", "events", subject.namespace or "default")
        if told.times > 1:
            try:
                change = {"count": told.times, "lastTimestamp": _seconds(event.time), "message": told.message}
                self._api.patch(resource, told.name, change)
                return
            except Trouble as trouble:
                if trouble.code != 404:
                    raise
                self._correlator.forget(told)  # the server keeps Events for an hour
                told = told._replace(times=1, first=event.time, name=f"{told.name}.{event.number:x}")
        self._api.create(resource, document(subject, event, told, self._node))


def document(subject: About, event: Event, told: Told, node: str) -> Object:
    """The Event of Kubernetes."""
    involved = {"apiVersion": "v1", "kind": subject.kind, "name": subject.name}
    involved |= {"namespace": subject.namespace} if subject.namespace else {}
    involved |= {"uid": subject.uid} if subject.uid else {}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": told.name, "namespace": subject.namespace or "default"},
        "involvedObject": involved,
        "reason": "".join(word.capitalize() for word in event.kind.value.split("-")),
        "message": told.message,
        "type": "Warning" if event.warns else "Normal",
        "count": told.times,
        "firstTimestamp": _seconds(told.first),
        "lastTimestamp": _seconds(event.time),
        "source": {"component": COMPONENT, "host": node},
        "reportingComponent": COMPONENT,
        "reportingInstance": node,
    }


def _seconds(time_of_day: str) -> str:
    """As `metav1.Time` has it: without fractions."""
    return time_of_day.partition(".")[0].removesuffix("Z") + "Z"
