"""Implementation of restore-diff app: serve the page of `restore_diff.app` to browsers on this machine."""

import argparse
import gc
import os
import signal
import sys
import threading
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from restore_diff.commands.console import (
    BAD_USAGE,
    CHECKPOINT,
    OK,
    PLUGIN,
    USER_ERRORS,
    complain,
    count,
    device,
    hyphenated,
    logging_to_console,
    path,
    pixels,
    say,
)
from restore_diff.errors import UserError

LOCAL = ("127.0.0.1", "localhost")
POLICY = (
    b"default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    b"style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
)
"""The page loads nothing from other servers, and other pages cannot show it in a frame."""


def parser() -> argparse.ArgumentParser:
    """The arguments, for `parse_args` and for shell completion."""
    parser = argparse.ArgumentParser(
        prog="restore-diff app",
        description="Restore photographs, and look at training runs, in a browser on this machine (docs/app.md).",
        epilog="Nothing is sent to other machines. Ctrl-C stops the app and removes the uploaded photographs.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    host = "address to listen on; 0.0.0.0: the whole network can use the app, without a password (default 127.0.0.1)"
    add("--ckpt", type=path, metavar="PATH", help=CHECKPOINT)
    add("--plugin", type=path, action="append", default=[], metavar="FILE", help=PLUGIN)
    add("--device", type=device, default="auto", metavar="auto|cpu|cuda[:N]|mps")
    add("--runs", type=path, default="runs", metavar="DIR", help="folder of the training runs (default runs)")
    add("--host", default=LOCAL[0], metavar="ADDRESS", help=host)
    add("--port", type=count(1, 65535), metavar="N", help="port to listen on (default: the first free one from 7860)")
    add("--max-pixels", type=pixels, default="200M", metavar="N", help="refuse larger photographs (default 200M)")
    add("--max-mib", type=count(1), default=500, metavar="N", help="refuse larger files, in MiB (default 500)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Serve until Ctrl-C or SIGTERM; return the exit code. Raises SystemExit for --help and malformed arguments."""
    args = parser().parse_args(hyphenated(sys.argv[1:] if argv is None else argv))
    if threading.current_thread() is threading.main_thread():  # only that thread can handle signals
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with logging_to_console(), TemporaryDirectory(prefix="restore-diff-app-") as folder:
            say(f"open {_start(args, Path(folder))}   (Ctrl-C stops the app)")
            threading.Event().wait()
    except USER_ERRORS as error:
        complain("restore-diff app", error)
        return BAD_USAGE
    except KeyboardInterrupt:
        say("stopped")
        gc.freeze()  # exit at once: a last collection of torch's and gradio's objects would take seconds
    return OK


def _start(args: argparse.Namespace, folder: Path) -> str:
    """Serve in the background and return the address. Browsers can read files of `folder` only. Raises UserError."""
    os.environ.update(GRADIO_TEMP_DIR=str(folder), GRADIO_ANALYTICS_ENABLED="False")  # read when gradio is imported
    os.environ.pop("GRADIO_ALLOWED_PATHS", None)
    try:
        import safehttpx  # type: ignore[import-not-found]
        from starlette.middleware import Middleware  # type: ignore[import-not-found]
        from starlette.middleware.trustedhost import TrustedHostMiddleware  # type: ignore[import-not-found]

        from restore_diff.app import CSS, Service, page
    except ImportError as error:
        raise UserError(f"needs gradio ({error}): pip install 'restore_diff[app]'") from error

    from restore_diff.registry import load_plugins

    safehttpx.get = safehttpx.async_validate_url = _refuse_address
    warnings.filterwarnings("ignore", module="PIL")  # problems of a file are shown on the page
    load_plugins(map(str, args.plugin))
    service = Service(args.ckpt, args.device, args.max_pixels, folder)
    say(service.description)
    middleware = [Middleware(_with_policy)]
    if args.host in LOCAL:  # refuse pages of other sites whose name was pointed at this machine
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=LOCAL))
    else:
        say(f"warning: everyone who reaches {args.host} can use the app, without a password", to=sys.stderr)
    try:
        _, address, _ = page(service, args.runs).launch(
            server_name=args.host,
            server_port=args.port,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            max_file_size=args.max_mib * 2**20,
            enable_monitoring=False,
            run_history=False,
            footer_links=[],
            mcp_server=False,
            ssr_mode=False,
            pwa=False,
            css=CSS,
            app_kwargs={"middleware": middleware, "docs_url": None, "redoc_url": None, "openapi_url": None},
        )
    except OSError as error:
        raise UserError(f"cannot listen on {args.host}, port {args.port or '7860 and above'}: {error}") from error
    return address


async def _refuse_address(*_: object, **__: object) -> Any:
    """In place of gradio's downloads: it would fetch any public address that a browser names as a file."""
    raise ValueError("only uploaded files are read")


def _with_policy(app: Any) -> Any:
    """ASGI middleware that adds POLICY to each response."""

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY)]
            await send(message)

        await app(scope, receive, send_with_policy)

    return serve
