# SPDX-License-Identifier: Apache-2.0
"""Serves the page: who may ask, what browsers may load, and temporary files that do not outlive the page."""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from modeling_lavis.demo.folders import AllowedFolders
from modeling_lavis.demo.models import PageModel

#: hosts of this machine, under which no other one can ask
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
# gradio's own scripts and styles are partly inline
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    b"content-security-policy": _POLICY.encode(),
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
    b"cross-origin-resource-policy": b"same-origin",
}


class SafeHeaders:
    """
    An ASGI application with headers by which a browser loads nothing from elsewhere, whatever the page says.

    Args:
        app (`Callable`): the application.
    """

    def __init__(self, app: Callable[..., Any]) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                kept = [(name, value) for name, value in message["headers"] if name.lower() not in _HEADERS]
                message = {**message, "headers": [*kept, *_HEADERS.items()]}
            await send(message)

        await self.app(scope, receive, send_with_headers)


def _forbid_downloads() -> None:
    """Keep gradio from downloading what a request names by its address, where an upload is expected."""
    from gradio import Error, processing_utils

    async def refuse(url: str) -> Any:
        raise Error(f"{url} is an address. Upload the file.", print_exception=False)

    processing_utils.async_ssrf_protected_get = refuse


def serve(
    models: list[PageModel],
    folders: AllowedFolders,
    examples: Sequence[Path],
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    max_upload: int = 64,
    on_start: Callable[[str], None] | None = None,
) -> None:
    """
    Serve the page until the process is interrupted.

    Args:
        models (`list[PageModel]`): the models.
        folders (`AllowedFolders`): folders that the page may use.
        examples (`Sequence[Path]`): images to choose from.
        host (`str`, *optional*, defaults to `"127.0.0.1"`): address to listen on.
        port (`int`, *optional*): its port; by default the first free one from 7860 on.
        max_upload (`int`, *optional*, defaults to 64): largest size of an uploaded file, in MiB.
        on_start (`Callable`, *optional*): called with the address of the page.

    Raises:
        OSError: the port is taken. ImportError: gradio is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="modeling-lavis-page-") as workspace:
        # read when gradio is imported or launched
        os.environ.update(GRADIO_TEMP_DIR=f"{workspace}/uploads", GRADIO_ANALYTICS_ENABLED="False")
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        from modeling_lavis.demo.context import PageContext
        from modeling_lavis.demo.page import STYLE, build_page, theme

        _forbid_downloads()
        context = PageContext(models, folders, Path(workspace), examples)
        page = build_page(context, f"{max_upload} MiB")
        middleware = [Middleware(SafeHeaders)]
        if host in LOCAL_HOSTS:  # a name of another machine that leads here is that of an attacker
            middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=list(LOCAL_HOSTS)))
        page.queue(max_size=32)
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            max_file_size=max_upload * 2**20,
            theme=theme(),
            css=STYLE,
            app_kwargs={"middleware": middleware},
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            show_error=True,
            footer_links=[],
        )
        try:
            if on_start is not None:
                on_start(address)
            page.block_thread()
        finally:
            page.close(verbose=False)


__all__ = ["LOCAL_HOSTS", "SafeHeaders", "serve"]
