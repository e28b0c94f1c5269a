"""GoBGP 3's gRPC API as plain calls with deadlines. Knows nothing of routes.

What comes back is a message, `NotThereYet`, or `Refused`: the daemon is there and will not do it. There is no gRPC
keepalive, which gobgpd answers by ending the connection (too_many_pings).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from bgpcni.exporter import NotThereYet
from bgpcni_gobgp import gobgp_pb2 as api

BATCH = 1000
"""Paths in one message: each is all or nothing."""
_SERVICE = "/apipb.GobgpApi/"
_NEXT_SERVICE = "/api.GoBgpService/"  # GoBGP 4
_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.use_local_subchannel_pool", 1),  # another life's back-off is not ours
]
_ABSENT = {
    grpc.StatusCode.UNAVAILABLE: "cannot be reached",
    grpc.StatusCode.DEADLINE_EXCEEDED: "does not answer",
    grpc.StatusCode.CANCELLED: "is let go of",
}


class Refused(Exception):
    """The daemon answered that it will not; the message is its words."""


class Client:
    """One daemon. Made without I/O; `close` from any thread ends what is under way."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._channel = grpc.insecure_channel(target, options=_OPTIONS)
        self._closed = False
        unary, stream = self._channel.unary_unary, self._channel.unary_stream
        self._get_bgp = unary(_SERVICE + "GetBgp", **_codec(api.GetBgpResponse))
        self._next_get_bgp = unary(_NEXT_SERVICE + "GetBgp", **_codec(Empty))
        self._list_peer = stream(_SERVICE + "ListPeer", **_codec(api.ListPeerResponse))
        self._list_path = stream(_SERVICE + "ListPath", **_codec(api.ListPathResponse))
        self._watch_event = stream(_SERVICE + "WatchEvent", **_codec(api.WatchEventResponse))
        self._add_paths = self._channel.stream_unary(_SERVICE + "AddPathStream", **_codec(Empty))

    def close(self) -> None:
        self._closed = True
        self._channel.close()

    def greet(self, deadline: float) -> None:
        """Is it there, is it GoBGP 3, does it speak BGP?"""
        try:
            answer = self._call(lambda: self._get_bgp(api.GetBgpRequest(), timeout=_left(deadline)))
        except Refused as error:
            raise NotThereYet(f"{self._target}: {error}", untouched=True) from None
        if not getattr(answer, "global").asn:
            raise NotThereYet(f"gobgpd at {self._target} has no AS number: its BGP is not configured", untouched=True)

    def peers(self, deadline: float) -> list[api.Peer]:
        return [answer.peer for answer in self._stream(self._list_peer, api.ListPeerRequest(), _left(deadline))]

    def paths(self, family: api.Family, deadline: float) -> Iterator[api.Path]:
        """All paths of a family, whoever announced them; NLRI as octets, no attributes to speak of."""
        request = api.ListPathRequest(family=family, enable_only_binary=True, batch_size=BATCH)
        for answer in self._stream(self._list_path, request, _left(deadline)):
            yield from answer.destination.paths

    def send(self, paths: Sequence[api.Path], deadline: float) -> None:
        """Announce and take back. Raises Refused: messages before the faulty one were taken."""
        chunks = (api.AddPathStreamRequest(paths=paths[at : at + BATCH]) for at in range(0, len(paths), BATCH))
        self._call(lambda: self._add_paths(chunks, timeout=_left(deadline)))

    def watch(self) -> Iterator[api.WatchEventResponse]:
        """Events of sessions, those that are there first; ends only by an exception, or by `close`."""
        return self._stream(self._watch_event, api.WatchEventRequest(peer=api.WatchEventRequest.Peer()), None)

    def stirrings(self) -> Iterator[api.WatchEventResponse]:
        """An event for each change of what peers announce, the first once all later ones are seen."""
        table = api.WatchEventRequest.Table
        filters = [table.Filter(type=table.Filter.ADJIN), table.Filter(type=table.Filter.EOR)]
        request = api.WatchEventRequest(peer=api.WatchEventRequest.Peer(), table=table(filters=filters))
        return self._stream(self._watch_event, request, None)

    def _stream(self, method: Callable[..., Any], request: object, timeout: float | None) -> Iterator[Any]:
        answers = self._call(lambda: method(request, timeout=timeout))
        try:
            while True:
                try:
                    answer = self._call(lambda: next(answers))
                except StopIteration:
                    return
                yield answer
        finally:
            answers.cancel()

    def _call(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except StopIteration:
            raise
        except grpc.RpcError as error:
            raise self._judged(error) from None
        except ValueError:
            if not self._closed:
                raise
            raise NotThereYet("closed") from None

    def _judged(self, error: Any) -> Exception:
        code, words = error.code(), error.details() or ""
        if code in _ABSENT:
            return NotThereYet(f"gobgpd at {self._target} {_ABSENT[code]}" + (f": {words}" if words else ""))
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return NotThereYet(f"{self._target} {self._foreign()}", untouched=True)
        if code is grpc.StatusCode.UNKNOWN and "HTTP" not in words:  # what a Go server's plain errors become
            return Refused(words)
        if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND):
            return Refused(words)
        return NotThereYet(f"{self._target} does not answer like GoBGP: {code.name.lower()} {words}")

    def _foreign(self) -> str:
        try:
            self._next_get_bgp(Empty(), timeout=3)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return "speaks gRPC, but not GoBGP's API"
        return "speaks the API of GoBGP 4 or later, which this exporter does not: GoBGP 3 is needed"


def _left(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())


def _codec(answer: Any) -> dict[str, Any]:
    return {
        "request_serializer": lambda message: message.SerializeToString(),
        "response_deserializer": answer.FromString,
    }
