"""``tanl serve``: judge images over HTTP, with a page and a REST interface."""

from __future__ import annotations

import argparse

from ..io.arguments import positive, positive_number, whole_number
from ..io.text import shown_path
from . import guards
from .guards import told
from .signals import held

_DESCRIPTION = """\
Serve a guard on this machine: a page to drop images on, to type classes and to watch verdicts and health,
and the same as a REST interface. Whatever is asked for is done by one guard, which learns as it goes; with
--guard it is kept, and goes on at the next start."""

_EPILOG = """\
examples:
  tanl serve --labels labels.txt --guard guard/ --backbone ViT-B-16/openai
  tanl serve --label cat --label dog --corpus words.txt --no-page --port 9000
  curl -F images=@a.jpg -F images=@b.jpg http://127.0.0.1:8000/judge

routes: POST /judge (learns), POST /score (does not), POST and DELETE /calibrate, GET, PUT and POST /labels,
GET /health, GET /openapi.json. Images are parts of multipart/form-data called images. Answers are JSON; what cannot be
done is answered 4xx with {"error": ...}, and changes nothing.

who may ask: programs and people on this machine, unless --host and --allow-remote say otherwise. There is no password
and no TLS: for others put a proxy in front that has both.

exit codes: 0 ended on request (Ctrl-C, SIGTERM), and the guard is kept; 2 a mistake in what was asked for, or the guard
could not be kept."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    guards.add_guard_arguments(parser)
    serving = parser.add_argument_group("serving")
    serving.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen on (default: %(default)s); another than this machine's own needs --allow-remote",
    )
    serving.add_argument(
        "--port", metavar="N", type=_port, default=8000, help="0 takes a free one (default: %(default)s)"
    )
    serving.add_argument(
        "--allow-remote",
        action="store_true",
        help="let others reach the service: whoever does can judge, teach, relabel and calibrate",
    )
    serving.add_argument(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=[],
        help="a name by which the service may be asked, besides IP addresses and localhost; may be repeated",
    )
    serving.add_argument(
        "--page", action=argparse.BooleanOptionalAction, default=True, help="show the page (default: yes)"
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-body", metavar="MB", type=positive, default=32.0, help="of a request (default: %(default)g)"
    )
    limits.add_argument(
        "--max-pixels",
        metavar="MILLIONS",
        type=positive,
        default=50.0,
        help="of an image (default: %(default)g)",
    )
    limits.add_argument(
        "--max-images",
        metavar="N",
        type=positive_number,
        default=256,
        help="in a request (default: %(default)s)",
    )


def main(arguments: argparse.Namespace) -> int:
    """Carry the command out and return its exit code."""
    guards.check(arguments)
    # Before the slow parts: packages that are missing, an address that is taken or too open.
    from ..serve import api, server
    from ..serve.service import Service

    if arguments.page:
        from ..serve.page import add_page, need_gradio

        need_gradio()
    host = arguments.host
    if not server.is_loopback(host):
        if not arguments.allow_remote:
            raise ValueError(
                f"--host {host} lets others reach the service, which has no password: add --allow-remote if you mean "
                "it, or leave --host out"
            )
        told(
            f"warning: listening on {host}: whoever reaches this machine can judge, teach, relabel and calibrate; "
            "there is no password and no TLS"
        )
    with server.bound(host, arguments.port) as listening:
        guard = guards.open_guard(arguments)
        guards.calibrate(guard, arguments)
        service = Service(
            guard,
            arguments.guard,
            save_every=arguments.save_every,
            max_images=arguments.max_images,
            max_pixels=int(arguments.max_pixels * 1e6),
            told=lambda line: told(f"warning: {line}"),
        )
        app = api.make_app(service, max_body=int(arguments.max_body * 1e6), hosts=arguments.allow_host)
        if arguments.page:
            add_page(app, service)
        print(f"tanl serves {guard!r} at {server.url_of(listening)}; Ctrl-C ends it", flush=True)
        try:
            server.run(app, listening)
        except KeyboardInterrupt:
            pass  # the one way in which it ends
        finally:
            with held():
                service.close()
    kept = ""
    if arguments.guard is not None:
        kept = (
            f"; the guard is kept in {shown_path(arguments.guard)}"
            if guards.is_kept(arguments)
            else "; no guard was kept, as nothing changed"
        )
    told(f"ended{kept}")
    return 0


def _port(text: str) -> int:
    number = whole_number(text)
    if number > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, from 0 to 65535")
    return number
