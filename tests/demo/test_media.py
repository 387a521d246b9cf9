"""Images and videos that visitors send."""

import base64
from io import BytesIO
from pathlib import Path

import PIL.Image
import pytest

from modeling_lavis.demo.media import THUMBNAIL, picture, preview, read_media


def opened(address: str) -> PIL.Image.Image:
    head, _, content = address.partition(",")
    assert head == "data:image/jpeg;base64"
    return PIL.Image.open(BytesIO(base64.b64decode(content)))


def test_images(photos: dict[str, Path]) -> None:
    image = read_media(str(photos["coffee"]), "image")
    assert image.size == PIL.Image.open(photos["coffee"]).size
    small = opened(picture(image))
    assert small.mode == "RGB" and max(small.size) == THUMBNAIL
    assert opened(picture(PIL.Image.new("RGBA", (20, 10)))).getpixel((5, 5)) == (255, 255, 255)
    assert opened(picture(PIL.Image.new("RGB", (20, 10)), longest=4000)).size == (20, 10)


def test_what_cannot_be_read(tmp_path: Path, photos: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="There is no image. Upload one, or choose an example."):
        read_media(None, "image")
    with pytest.raises(FileNotFoundError, match="Upload it again"):
        read_media(str(tmp_path / "gone.png"), "image")
    broken = tmp_path / "broken.png"
    for content in (b"", b"text", photos["coffee"].read_bytes()[:4000]):
        broken.write_bytes(content)
        with pytest.raises(OSError, match=r"broken\.png") as caught:
            read_media(str(broken), "image")
        assert str(tmp_path) not in str(caught.value)


@pytest.mark.slow
def test_videos(tmp_path: Path) -> None:
    pytest.importorskip("av")
    from tests.models.video_clips import frame_number, write_clip

    clip = tmp_path / "clip.mp4"
    write_clip(clip, frames=12)
    assert read_media(str(clip), "video") == str(clip)
    assert frame_number(preview(str(clip), "video")) == 6
    clip.write_bytes(clip.read_bytes()[:300])
    with pytest.raises(OSError, match=r"clip\.mp4") as caught:
        read_media(str(clip), "video")
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(ValueError, match="There is no video. Upload one.$"):
        read_media("", "video")
