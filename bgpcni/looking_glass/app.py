"""The pages and the JSON of the looking glass: which document of the agent each address shows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any
from urllib.parse import quote, urlencode

import jinja2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route
from starlette.types import ASGIApp

from bgpcni import __version__
from bgpcni.commands.remedies import remedy
from bgpcni.looking_glass import drawing, way, words
from bgpcni.looking_glass.asking import Asker, NoAnswer
from bgpcni.looking_glass.entrance import Entrance
from bgpcni.looking_glass.guard import Guard
from bgpcni.looking_glass.history import WIDTH, History, strip
from bgpcni.looking_glass.live import Live

ROWS = 50
SHOWN = 20
"""How many containers that cannot be reached the overview names."""
LONGEST_SEARCH = 200
MOST_CHOICES = 500
"""Names in one list to choose from; a search finds the rest."""
STATES = {
    "attachments": ("up", "adding", "leaving", "gone"),
    "routes": ("announced", "wanted", "withdrawing", "refused"),
    "received": ("best", "equal", "other", "refused", "stale"),
}
"""By which states each list can be filtered."""
PAGES = (
    ("/", "Overview"), ("/attachments", "Attachments"), ("/routes", "Routes"), ("/received", "Received"),
    ("/peers", "Peers"), ("/map", "Map"), ("/events", "Events"),
)  # fmt: skip
API: dict[str, tuple[str, dict[str, Any]]] = {
    "status": ("status", {}),
    "attachments": ("attachments", {}),
    "routes": ("routes", {}),
    "received": ("routes", {"received": True}),
    "peers": ("peers", {}),
    "nodes": ("nodes", {}),
    "networks": ("networks", {}),
    "unreachable": ("unreachable", {}),
}
"""The command, and its arguments, that answer `/api/v1/NAME`."""
_LISTS: dict[str, Callable[[str], Any]] = {"search": str, "limit": int, "offset": int}
_PARAMETERS: dict[str, dict[str, Callable[[str], Any]]] = {
    "attachments": _LISTS | {"network": str, "state": str}, "routes": _LISTS | {"network": str, "state": str},
    "received": _LISTS | {"peer": str, "state": str},
    "unreachable": {"search": str, "limit": int},
}  # fmt: skip
_KINDS = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


def create(asker: Asker, entrance: Entrance, node: str) -> ASGIApp:
    """The application behind its guard. `node`: how the pages call this node."""
    glass = Glass(asker, node)
    routes = [
        Route("/", glass.overview),
        Route("/attachments", glass.attachments),
        Route("/attachments/{container}", glass.attachment),
        Route("/routes", glass.routes),
        Route("/received", glass.received),
        Route("/peers", glass.peers),
        Route("/map", glass.map),
        Route("/events", glass.events),
        Route("/live", glass.live),
        Route("/static/{name}", glass.static),
        Route("/api/v1/explain", glass.api_explain),
        Route("/api/v1/{name}", glass.api),
    ]
    app = Starlette(
        routes=routes,
        lifespan=glass.lifespan,
        exception_handlers={HTTPException: glass.failed, NoAnswer: glass.unanswered, Exception: glass.broken},
    )
    app.router.redirect_slashes = False
    return Guard(app, entrance)


class Glass:
    """One method for each kind of address."""

    def __init__(self, asker: Asker, node: str) -> None:
        self._asker = asker
        self._node = node
        self._history = History(asker)
        self._live = Live(asker, self._history)
        self._templates = _templates()
        folder = files("bgpcni.looking_glass") / "static"
        self._static = {each.name: each.read_bytes() for each in folder.iterdir()}

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(self._live.run())
        try:
            yield
        finally:
            task.cancel()

    # ---------------------------------------------------------------- pages

    async def overview(self, request: Request) -> Response:
        status, peers, networks = await self._documents("status", "peers", "networks")
        well = not status["problems"] and all(peer["state"] == "Established" for peer in peers["peers"])
        troubled = await self._document("unreachable", limit=SHOWN, only_failed=well)
        return self._page(
            request, "overview.html", "Overview",
            status=status, peers=peers["peers"], networks=networks, troubled=troubled, shown=SHOWN,
            said=words.overview(status, peers["peers"], networks), ranges=words.ranges(networks),
        )  # fmt: skip

    async def attachments(self, request: Request) -> Response:
        asked = _Listing.of(request, "network", state=STATES["attachments"])
        document, networks = await asyncio.gather(self._document("attachments", **asked.question), self._networks())
        return self._page(
            request, "attachments.html", "Attachments", asked=asked, rows=document["attachments"],
            total=document["total"], networks=networks, states=STATES["attachments"],
        )  # fmt: skip

    async def attachment(self, request: Request) -> Response:
        container = request.path_params["container"]
        answer = await self._asker.ask("explain", what=container)
        found = [each for each in answer.document.get("attachments", []) if each.get("containerID") == container]
        if not found:
            raise HTTPException(404, f"no attachment of container {container} is here")
        ways = [(each, way.line(each["steps"]), way.stations(each["steps"])) for each in found]
        return self._page(request, "attachment.html", words.title(found[0]), ways=ways, container=container)

    async def routes(self, request: Request) -> Response:
        asked = _Listing.of(request, "network", state=STATES["routes"])
        document, networks = await asyncio.gather(self._document("routes", **asked.question), self._networks())
        return self._page(
            request, "routes.html", "Routes", asked=asked, rows=document["routes"], total=document["total"],
            networks=networks, states=STATES["routes"],
        )  # fmt: skip

    async def received(self, request: Request) -> Response:
        asked = _Listing.of(request, "peer", state=STATES["received"])
        answer = await self._asker.ask("routes", received=True, **asked.question)
        peers = (await self._document("peers"))["peers"]
        return self._page(
            request, "received.html", "Received", asked=asked, rows=answer.document.get("received", []),
            total=answer.document.get("total", 0), refused=answer.document.get("refused", {}),
            error=answer.document.get("error", ""), states=STATES["received"],
            peers=list(dict.fromkeys(peer["address"] for peer in peers))[:MOST_CHOICES],
        )  # fmt: skip

    async def peers(self, request: Request) -> Response:
        peers, status = await self._documents("peers", "status")
        await self._history.read()
        changes = self._history.sessions
        rows = [(peer, list(changes.get((peer["exporter"], peer["address"]), ()))) for peer in peers["peers"]]
        return self._page(
            request, "peers.html", "Peers", exporters=status["exporters"], width=WIDTH,
            peers=[(peer, mine, strip(mine, peer["state"])) for peer, mine in rows],
        )  # fmt: skip

    async def events(self, request: Request) -> Response:
        asked = _Listing.of(request)
        await self._history.read()
        words_of = asked.search.lower().split()
        found = [
            event for event in reversed(self._history.events)
            if all(word in json.dumps(event, ensure_ascii=False).lower() for word in words_of)
        ]  # fmt: skip
        rows = found[asked.offset : asked.offset + ROWS]
        return self._page(request, "events.html", "Events", asked=asked, rows=rows, total=len(found))

    async def map(self, request: Request) -> Response:
        networks, peers, status, nodes = await self._documents("networks", "peers", "status", "nodes")
        drawn = drawing.draw(networks, peers["peers"], status["exporters"])
        cluster = drawing.cluster(nodes["nodes"])
        return self._page(request, "map.html", "Map", drawn=drawn, cluster=cluster, nodes=nodes["nodes"])

    # ---------------------------------------------------------------- the rest

    async def live(self, request: Request) -> Response:
        if self._live.full:
            return PlainTextResponse("too many browsers are told already\n", 503, {"Retry-After": "30"})
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        return StreamingResponse(self._live.stream(), media_type="text/event-stream")

    async def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._static:
            raise HTTPException(404, "there is no such page")
        kind = _KINDS[name.rpartition(".")[2]]
        return Response(self._static[name], media_type=kind, headers={"Cache-Control": "no-cache"})

    async def api(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in API:
            return _error(404, f"there is no {name}; there are {', '.join([*API, 'explain'])}")
        command, arguments = API[name]
        try:
            given = _parameters(request, _PARAMETERS.get(name, {}))
        except ValueError as error:
            return _error(400, str(error))
        return await self._json(command, **arguments, **given)

    async def api_explain(self, request: Request) -> Response:
        what = request.query_params.get("what", "")
        if not what or set(request.query_params) != {"what"}:
            return _error(400, "say what to explain: ?what=CONTAINER, a pod, address, prefix or network")
        answer = await self._asker.ask("explain", what=what)
        return _document(answer.document, 404 if "error" in answer.document else 200)

    async def _json(self, command: str, **arguments: Any) -> Response:
        answer = await self._asker.ask(command, **arguments)
        return _document(answer.document, 400 if answer.code == 2 else 503 if "error" in answer.document else 200)

    async def _networks(self) -> list[str]:
        """The names to choose from."""
        document = await self._document("networks")
        return [each["network"] for each in document["networks"][:MOST_CHOICES]]

    async def _document(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Raises NoAnswer also if the agent answers with an error."""
        answer = await self._asker.ask(command, **arguments)
        if "error" in answer.document:
            raise NoAnswer(str(answer.document["error"]))
        return answer.document

    async def _documents(self, *commands: str) -> list[dict[str, Any]]:
        return list(await asyncio.gather(*(self._document(command) for command in commands)))

    # ---------------------------------------------------------------- errors

    async def failed(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return self._error_page(request, error.status_code, error.detail)

    async def unanswered(self, request: Request, error: Exception) -> Response:
        return self._error_page(request, 503, str(error))

    async def broken(self, request: Request, error: Exception) -> Response:
        return self._error_page(request, 500, "this page failed because of a defect; see the log of the looking glass")

    def _error_page(self, request: Request, code: int, text: str) -> Response:
        if request.url.path.startswith("/api/"):
            return _error(code, text)
        return self._page(request, "error.html", "Error", status_code=code, text=text)

    def _page(self, request: Request, template: str, title: str, status_code: int = 200, **values: Any) -> Response:
        text = self._templates.get_template(template).render(
            title=title, node=self._node, version=__version__, pages=PAGES, path=request.url.path, **values
        )
        return HTMLResponse(text, status_code)


class _Listing:
    """What the visitor of a list asked for. Raises HTTPException."""

    def __init__(self, path: str, search: str, page: int, filters: dict[str, str]) -> None:
        self.path, self.search, self.page, self.filters = path, search, page, filters
        self.offset = (page - 1) * ROWS

    @classmethod
    def of(cls, request: Request, *names: str, **choices: Sequence[str]) -> _Listing:
        """`names`: filters that take any word. `choices`: those that take one of these words."""
        given = {name: request.query_params.get(name, "").strip() for name in ("search", *names, *choices)}
        page = request.query_params.get("page", "1")
        for name, word in given.items():
            if len(word) > LONGEST_SEARCH:
                raise HTTPException(400, f"{name}: it has at most {LONGEST_SEARCH} characters")
        for name, known in choices.items():
            if given[name] and given[name] not in known:
                raise HTTPException(400, f"{name}: it is none of {', '.join(known)}")
        if not (page.isascii() and page.isdecimal() and 0 < int(page) <= 1_000_000):
            raise HTTPException(400, "page is a number from 1 on")
        return cls(request.url.path, given.pop("search"), int(page), given)

    @property
    def question(self) -> dict[str, Any]:
        """The arguments of the agent's command."""
        return {"search": self.search, "limit": ROWS, "offset": self.offset} | {
            name: word or None for name, word in self.filters.items()
        }

    @property
    def narrowed(self) -> bool:
        """Whether there is more than what fits."""
        return bool(self.search or any(self.filters.values()))

    def link(self, page: int) -> str:
        given = {name: word for name, word in {"search": self.search, **self.filters}.items() if word}
        return f"{self.path}?{urlencode({**given, 'page': page})}"


def _parameters(request: Request, known: dict[str, Callable[[str], Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            raise ValueError(
                f"{name}: there is no such parameter here" + (f", only {', '.join(known)}" if known else "")
            )
        try:
            found[name] = known[name](value)
        except ValueError:
            raise ValueError(f"{name}: {value[:40]!r} is not a number") from None
    return found


def _document(document: dict[str, Any], code: int) -> Response:
    """As JSON in ASCII, so that nothing in it can turn text round."""
    return Response(json.dumps(document), code, media_type="application/json")


def _error(code: int, text: str) -> Response:
    return _document({"schema": 1, "error": text}, code)


def _templates() -> jinja2.Environment:
    """Every value is made visible, then escaped, whatever the template says of it."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bgpcni.looking_glass"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=words.visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "ago": words.ago, "tone": words.tone, "count": words.count, "container": words.title,
        "segment": lambda text: quote(str(text), safe=""), "not_imported": words.not_imported,
        "remedy": remedy,
    }  # fmt: skip
    environment.globals |= {"marks": words.MARKS}
    return environment
