"""GoBGP 3's gRPC API as function calls with deadlines. It does not interpret routes.

A call returns a message, or raises `NotThereYet` or `Refused` (the daemon answers but refuses). gRPC keepalive is off,
because gobgpd closes the connection when it gets one (too_many_pings).
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
"""How many paths are in one message. The daemon takes a message completely or not at all."""
_SERVICE = "/apipb.GobgpApi/"
_NEXT_SERVICE = "/api.GoBgpService/"  # GoBGP 4
_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.use_local_subchannel_pool", 1),  # so that a new exporter does not inherit the back-off of an earlier one
]
_ABSENT = {
    grpc.StatusCode.UNAVAILABLE: "cannot be reached",
    grpc.StatusCode.DEADLINE_EXCEEDED: "does not answer",
    grpc.StatusCode.CANCELLED: "was closed",
}


class Refused(Exception):
    """The daemon refused; the message is its text."""


class Client:
    """The client of one daemon. Making it does no I/O. `close`, from any thread, ends running calls."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._channel = grpc.insecure_channel(target, options=_OPTIONS)
        self._closed = False
        unary, stream = self._channel.unary_unary, self._channel.unary_stream
        self._get_bgp = unary(_SERVICE + "GetBgp", **_codec(api.GetBgpResponse))
        self._next_get_bgp = unary(_NEXT_SERVICE + "GetBgp", **_codec(Empty))
        self._list_peer = stream(_SERVICE + "ListPeer", **_codec(api.ListPeerResponse))
        self._reset_peer = unary(_SERVICE + "ResetPeer", **_codec(Empty))
        self._list_path = stream(_SERVICE + "ListPath", **_codec(api.ListPathResponse))
        self._watch_event = stream(_SERVICE + "WatchEvent", **_codec(api.WatchEventResponse))
        self._add_paths = self._channel.stream_unary(_SERVICE + "AddPathStream", **_codec(Empty))

    def close(self) -> None:
        self._closed = True
        self._channel.close()

    def greet(self, deadline: float) -> None:
        """Raises NotThereYet unless the daemon answers, is GoBGP 3, and has its BGP configured."""
        try:
            answer = self._call(lambda: self._get_bgp(api.GetBgpRequest(), timeout=_left(deadline)))
        except Refused as error:
            raise NotThereYet(f"{self._target}: {error}", untouched=True) from None
        if not getattr(answer, "global").asn:
            raise NotThereYet(f"gobgpd at {self._target} has no AS number: its BGP is not configured", untouched=True)

    def peers(self, deadline: float) -> list[api.Peer]:
        return [answer.peer for answer in self._stream(self._list_peer, api.ListPeerRequest(), _left(deadline))]

    def reset(self, address: str, *, soft: bool, deadline: float) -> None:
        """End the session with a peer or, `soft`, send it all routes again and filter its own anew. Raises Refused."""
        request = api.ResetPeerRequest(address=address, soft=soft, direction=api.ResetPeerRequest.BOTH)
        self._call(lambda: self._reset_peer(request, timeout=_left(deadline)))

    def paths(self, family: api.Family, deadline: float) -> Iterator[api.Path]:
        """All paths of a family, whoever announced them. NLRI and attributes are octets."""
        request = api.ListPathRequest(family=family, enable_only_binary=True, batch_size=BATCH)
        for answer in self._stream(self._list_path, request, _left(deadline)):
            yield from answer.destination.paths

    def send(self, paths: Sequence[api.Path], deadline: float) -> None:
        """Announce and withdraw paths. Raises Refused; messages before the refused one are in effect."""
        chunks = (api.AddPathStreamRequest(paths=paths[at : at + BATCH]) for at in range(0, len(paths), BATCH))
        self._call(lambda: self._add_paths(chunks, timeout=_left(deadline)))

    def watch(self) -> Iterator[api.WatchEventResponse]:
        """Events of sessions, first one for each existing session. Ends only with an exception, or by `close`."""
        return self._stream(self._watch_event, api.WatchEventRequest(peer=api.WatchEventRequest.Peer()), None)

    def changes(self) -> Iterator[api.WatchEventResponse]:
        """An event for each change of what peers announce. The first event says that no later one will be missed."""
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
        if code is grpc.StatusCode.UNKNOWN and "HTTP" not in words:  # a Go server's ordinary errors have this code
            return Refused(words)
        if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND):
            return Refused(words)
        return NotThereYet(f"{self._target} does not answer like GoBGP: {code.name.lower()} {words}")

    def _foreign(self) -> str:
        try:
            self._next_get_bgp(Empty(), timeout=3)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return "speaks gRPC, but not the API of GoBGP"
        return "speaks the API of GoBGP 4 or later; this exporter needs GoBGP 3"


def _left(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())


def _codec(answer: Any) -> dict[str, Any]:
    return {
        "request_serializer": lambda message: message.SerializeToString(),
        "response_deserializer": answer.FromString,
    }
