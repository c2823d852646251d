"""The page of a service, made with Gradio: drop images, type classes, watch verdicts and health.

Gradio would write what is dropped into files, and open files and addresses that a request names. Here images go from
the browser to the service's own routes, and `OnlyThePage` lets nothing else of Gradio be reached than what shows the
page and takes typed text.
"""

from __future__ import annotations

import json
import os
import re
from html import escape
from importlib.resources import files
from typing import Any

from ..detectors.registry import InUse
from ..io.text import shown_percentage
from .gate import App, Message, Receive, Scope, Send, refuse
from .service import Service

PATH = "/page"

_SHOWS = re.compile(
    r"/?|/config/?|/theme\.css|/gradio_api/(?:theme\.css|startup-events|info|queue/data|heartbeat/[\w-]+)|"
    r"/(?:assets|static)/[\w./@-]+|/manifest\.json|/favicon\.ico"
)
_TAKES = re.compile(r"/gradio_api/(?:queue/join|cancel|reset)/?")
_MOST_TYPED = 1 << 20  # bytes of typed text


class OnlyThePage:
    """An ASGI application around another: of the page's framework it lets through what the page needs, and no files.

    Args:
        app: what is behind it.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not (path == PATH or path.startswith(f"{PATH}/")):
            await self._app(scope, receive, send)
            return
        own = path.removeprefix(PATH)
        if scope["method"] in ("GET", "HEAD") and _SHOWS.fullmatch(own) and ".." not in own:
            await self._app(scope, receive, send)
        elif scope["method"] == "POST" and _TAKES.fullmatch(own):
            await self._typed(scope, receive, send)
        else:
            await refuse(send, 403, f"{scope['method']} {path} is no part of the page; images go to /judge")

    async def _typed(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what was typed, if it is plain values: the framework would open what looks like a file."""
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > _MOST_TYPED:
                await refuse(
                    send, 413, f"typed text of more than {_MOST_TYPED} bytes is not taken; type less"
                )
                return
        try:
            content = json.loads(body)
        except ValueError:
            await refuse(send, 422, "the page sends JSON, and this is none")
            return
        if _names_a_file(content.get("data") if isinstance(content, dict) else content):
            await refuse(send, 403, "no file and no address is opened for a request; send images to /judge")
            return
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return waiting.pop() if waiting else await receive()

        await self._app(scope, again, send)


def _names_a_file(value: Any) -> bool:
    """Whether anything in it is an object, as files are told; typed text, numbers and lists of them are none."""
    if isinstance(value, list):
        return any(map(_names_a_file, value))
    return isinstance(value, dict)


def add_page(app: Any, service: Service) -> None:
    """Show the page at ``/page`` of an application of `tanl.serve.api.make_app`, and lead there from ``/``.

    Raises:
        ImportError: Gradio is not installed.
    """
    from fastapi.responses import RedirectResponse

    gradio = need_gradio()

    app.add_api_route("/", lambda: RedirectResponse(f"{PATH}/"), include_in_schema=False, response_model=None)
    app.add_middleware(OnlyThePage)
    sans = ["system-ui", "sans-serif"]
    gradio.mount_gradio_app(
        app,
        _page(gradio, service),
        path=PATH,
        theme=gradio.themes.Default(primary_hue="teal", font=sans, font_mono=["ui-monospace", "monospace"]),
        css=_asset("page.css"),
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        show_error=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
    )


def _page(gradio: Any, service: Service) -> Any:
    def classes() -> str:
        return "\n".join(service.labels()["labels"])

    def health() -> str:
        return health_html(service.health())

    def use(text: str) -> tuple[str, str, str]:
        names = [line.strip() for line in text.splitlines() if line.strip()]
        try:
            said = service.set_labels(names)
        except (ValueError, TypeError) as error:
            return text, _note(str(error), "alert"), health()
        return classes(), _classes_told(said), health()

    def now() -> tuple[str, str, str]:
        return classes(), _classes_told(service.labels()), health()

    with gradio.Blocks(title="tanl", analytics_enabled=False, fill_width=True) as page:
        gradio.HTML(_asset("head.html"))
        with gradio.Row():
            with gradio.Column(scale=3, min_width=420):
                dropped = gradio.HTML(
                    html_template=_asset("drop.html"),
                    css_template="",
                    js_on_load=_asset("drop.js"),
                    apply_default_css=False,
                    elem_id="drop",
                )
            with gradio.Column(scale=1, min_width=280):
                shown = gradio.HTML(health(), elem_id="health")
                labels = gradio.Textbox(
                    classes(), label="Classes, one a line", lines=6, max_lines=14, elem_id="classes"
                )
                apply = gradio.Button("Use these classes", variant="primary", elem_id="use-classes")
                told = gradio.HTML(elem_id="classes-told")
        page.load(now, None, [labels, told, shown], show_progress="hidden", api_visibility="private")
        apply.click(use, labels, [labels, told, shown], show_progress="hidden", api_visibility="private")
        # After each batch, and now and then: others may use the same guard.
        dropped.submit(health, None, shown, show_progress="hidden", api_visibility="private")
        timer = gradio.Timer(10)
        timer.tick(health, None, shown, show_progress="hidden", api_visibility="private")
    return page


def health_html(health: dict[str, Any]) -> str:
    """A service's health for people, from `Service.health`."""
    stream = health["stream"]
    threshold, flagged = health["threshold"], stream["flagged"]
    if threshold is None:
        told = "none yet: drop 20 or more images of your classes as <em>known good</em>"
    elif health["calibrated_tpr"] is None:
        told = f"<b>{threshold:.3f}</b>, found in the stream"
    else:
        told = f"<b>{threshold:.3f}</b>, passes {health['calibrated_tpr']:.0%} of your classes' images"
    rows = {
        "Threshold": told,
        "Images": f"<b>{stream['images']}</b> judged since the start",
        "Flagged": "-"
        if flagged is None
        else f"<b>{shown_percentage(flagged)}</b> of the latest {stream['window']}",
        "Method": escape(f"{InUse(health['method'], health['settings'])}, {health['backbone']}"),
        "Against": f"{health['negatives']} negative labels",
        "Kept": _kept(health),
    }
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in rows.items())
    warnings = "".join(f"<li>{escape(warning)}</li>" for warning in health["warnings"])
    state = (
        f"<ul class='warnings' role='alert'>{warnings}</ul>"
        if warnings
        else "<p class='well'>Nothing looks wrong.</p>"
    )
    return f"<section class='health'><h2>Health</h2>{state}<dl>{items}</dl></section>"


def _kept(health: dict[str, Any]) -> str:
    if not health["kept"]:
        return "no: gone when the service ends (<code>--guard DIR</code> keeps it)"
    seconds = health["saved_seconds_ago"]
    return "yes" if seconds is None else f"yes, {seconds:.0f} s ago"


def _classes_told(said: dict[str, Any]) -> str:
    return _note(
        f"{len(said['labels'])} classes, {said['negatives']} negative labels. {said.get('note', '')}",
        "status",
    )


def _note(text: str, role: str) -> str:
    return f"<p class='note {role}' role='{role}'>{escape(text)}</p>"


def _asset(name: str) -> str:
    return (files("tanl.serve") / "assets" / name).read_text(encoding="utf-8")


def need_gradio() -> Any:
    """Gradio.

    Raises:
        ImportError: it is not there.
    """
    # Before it is imported: it would tell its makers that it was.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise ImportError(
            "the page needs Gradio: pip install 'tanl[serve]', or serve without it: --no-page"
        ) from error
    return gradio
