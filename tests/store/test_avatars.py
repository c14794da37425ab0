"""Avatars: uploads are re-encoded or rejected, and served with immutable caching."""

import io
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from PIL import Image, PngImagePlugin
from werkzeug.test import TestResponse

from models.core.errors import Invalid
from models.core.files import Files, FilesUnavailable, files
from models.core.settings import Settings, SettingsError, load_settings
from models.store.catalogue import pictures
from tests.factories import Person
from tests.fakes.bucket import bucket

UNREADABLE = pictures.UNREADABLE
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
SECRET = b"GPS 59.3293 18.0686"


def picture(format: str = "PNG", size: tuple[int, int] = (64, 48), mode: str = "RGB", **kw: Any) -> bytes:
    buffer = io.BytesIO()
    colour: Any = {"RGB": (200, 30, 30), "RGBA": (200, 30, 30, 90), "L": 99, "CMYK": (9, 9, 9, 9)}[mode]
    Image.new(mode, size, colour).save(buffer, format, **kw)
    return buffer.getvalue()


def frames(format: str) -> bytes:
    buffer = io.BytesIO()
    reds = [Image.new("RGB", (32, 32), (red, 0, 0)) for red in (0, 200)]
    reds[0].save(buffer, format, save_all=True, append_images=reds[1:])
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that claims these dimensions."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(99_999)))
        + chunk(b"IEND", b"")
    )


def upload(person: Person, raw: bytes, name: str = "me.png", kind: str = "image/png") -> TestResponse:
    head = f'--b\r\nContent-Disposition: form-data; name="avatar"; filename="{name}"\r\nContent-Type: {kind}\r\n\r\n'
    return person.browser.post(
        "/api/upload/avatar",
        data=head.encode() + raw + b"\r\n--b--\r\n",
        content_type="multipart/form-data; boundary=b",
    )


# -- re-encoding ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        picture(),
        picture("JPEG"),
        picture("WEBP"),
        picture(mode="RGBA"),
        picture(mode="L"),
        picture("JPEG", mode="CMYK"),
        picture(size=(1, 1)),
        picture(size=(3000, 2)),
        frames("MPO"),
    ],
)
def test_every_picture_becomes_a_square_webp(raw: bytes) -> None:
    made = Image.open(io.BytesIO(pictures.to_avatar(raw)))
    assert (made.format, made.size) == ("WEBP", (512, 512))


def test_transparency_stays() -> None:
    made = Image.open(io.BytesIO(pictures.to_avatar(picture(mode="RGBA"))))
    assert made.mode == "RGBA"


def test_metadata_is_removed_and_rotation_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lie on the side
    exif[0x010E] = SECRET.decode()
    raw = io.BytesIO()
    half = Image.new("RGB", (64, 64), "red")
    half.paste("blue", (0, 0, 32, 64))
    half.save(raw, "JPEG", exif=exif, icc_profile=SECRET, comment=SECRET, quality=95)
    assert SECRET in raw.getvalue()
    made = pictures.to_avatar(raw.getvalue())
    assert b"GPS" not in made
    assert b"EXIF" not in made
    assert b"ICCP" not in made
    shown = Image.open(io.BytesIO(made)).convert("RGB")
    top, bottom = shown.getpixel((256, 64)), shown.getpixel((256, 448))
    assert isinstance(top, tuple)
    assert isinstance(bottom, tuple)
    assert top[2] > 200 > top[0], "the blue left half is above"
    assert bottom[0] > 200 > bottom[2]


def test_png_text_chunks_are_removed() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", SECRET.decode())
    assert SECRET not in pictures.to_avatar(picture(pnginfo=info))


@pytest.mark.parametrize(
    "tail", [SVG, b"PK\x03\x04" + bytes(64), b"<?php system('id') ?>", b"GIF89a" + bytes(9)]
)
def test_data_appended_to_a_picture_is_removed(tail: bytes) -> None:
    for raw in (picture() + tail, picture("JPEG", comment=tail)):
        assert tail not in pictures.to_avatar(raw)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", UNREADABLE),
        (SVG, UNREADABLE),
        (b"<html><script>alert(1)</script>", UNREADABLE),
        (picture("GIF"), UNREADABLE),
        (picture("BMP"), UNREADABLE),
        (picture("TIFF"), UNREADABLE),
        (b"GIF89a" + picture(), UNREADABLE),
        (picture(size=(300, 300))[:500], UNREADABLE),
        (picture("JPEG", size=(300, 300))[:-200], UNREADABLE),
        (picture("WEBP", size=(300, 300))[:-20], UNREADABLE),
        (bomb(30_000, 30_000), pictures.TOO_MANY_PIXELS),
        (bomb(5_000, 5_000), pictures.TOO_MANY_PIXELS),
        (bomb(2**31 - 1, 2**31 - 1), pictures.TOO_MANY_PIXELS),
        (bomb(0, 5), UNREADABLE),
        (bomb(500, 500), UNREADABLE),
        (frames("WEBP"), pictures.ANIMATED),
        (frames("PNG"), pictures.ANIMATED),
    ],
)
def test_unusable_pictures_are_rejected_with_a_message(raw: bytes, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        pictures.to_avatar(raw)
    assert (caught.value.message, caught.value.status) == (message, 400)


def test_broken_bytes_are_rejected() -> None:
    dice = random.Random(4)
    for raw in (picture(), picture("JPEG"), picture("WEBP")):
        for _ in range(150):
            broken = bytearray(raw)
            for _ in range(dice.randint(1, 8)):
                broken[dice.randrange(len(broken))] = dice.randrange(256)
            try:
                made = pictures.to_avatar(bytes(broken))
            except Invalid:
                continue
            assert Image.open(io.BytesIO(made)).size == (512, 512)


# -- upload and serving --------------------------------------------------------------------------------------


def test_an_avatar_is_stored_by_digest_and_served_immutable(alice: Person, anonymous: Person) -> None:
    answer = upload(alice, picture(), name="../../etc/passwd.svg")
    assert answer.status_code == 200
    address = answer.get_json()["avatar_url"]
    assert pictures.ADDRESS.fullmatch(address)
    assert upload(alice, picture(), name="other.png").get_json()["avatar_url"] == address
    served = anonymous.browser.get(address)
    assert served.status_code == 200
    assert served.data[8:12] == b"WEBP"
    assert served.headers["Content-Type"] == "image/webp"
    assert served.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert served.headers["X-Content-Type-Options"] == "nosniff"
    assert served.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert "Set-Cookie" not in served.headers
    again = anonymous.browser.get(address, headers={"If-None-Match": served.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        f"/uploads/avatars/{'0' * 64}.webp",
        f"/uploads/avatars/{'0' * 64}.svg",
        f"/uploads/avatars/{'0' * 63}%00.webp",
        "/uploads/avatars/..%2f..%2fsecret_key",
        "/uploads/avatars/%2e%2e",
        "/uploads/avatars/",
        "/uploads/",
    ],
)
def test_nothing_else_is_served(anonymous: Person, path: str) -> None:
    assert anonymous.browser.get(path).status_code == 404


def test_contract_errors_in_order(alice: Person, anonymous: Person) -> None:
    missing = (400, {"error": "No file provided"})
    type_ = (400, {"error": "Invalid file type. Only JPEG, PNG, and WebP are allowed."})
    size = (400, {"error": "File too large. Maximum size is 5MB."})
    large = bytes(5 * 1024 * 1024 + 1)

    def reply(answer: TestResponse) -> tuple[int, Any]:
        return answer.status_code, answer.get_json()

    assert reply(upload(anonymous, b"")) == (401, {"error": "Unauthorized"})
    assert reply(alice.browser.post("/api/upload/avatar")) == missing
    assert reply(alice.browser.post("/api/upload/avatar", data={"avatar": "text"})) == missing
    assert reply(upload(alice, picture(), name="")) == missing
    assert reply(upload(alice, picture(), kind="image/svg+xml")) == type_
    assert reply(upload(alice, large, kind="application/pdf")) == type_, "the type comes before the size"
    assert reply(upload(alice, large)) == size
    assert reply(upload(alice, large * 5)) == size, "also beyond the largest body that is read"
    assert reply(upload(alice, large[:-1])) == (400, {"error": UNREADABLE})
    assert reply(upload(alice, SVG)) == (400, {"error": UNREADABLE}), "the declared type is not believed"
    assert upload(alice, picture("JPEG"), kind="image/jpg").status_code == 200
    assert upload(alice, picture("JPEG"), kind="image/webp").status_code == 200


def test_cross_site_upload_is_rejected(alice: Person) -> None:
    headers = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    data = {"avatar": (io.BytesIO(picture()), "me.png", "image/png")}
    assert alice.browser.post("/api/upload/avatar", data=data, headers=headers).status_code == 403


# -- storage -------------------------------------------------------------------------------------------------


def test_files_stand_in_the_data_directory(app: Flask, settings: Settings, alice: Person) -> None:
    address = upload(alice, picture(size=(9, 9))).get_json()["avatar_url"]
    assert (settings.data_dir / "files" / address[1:]).is_file()
    assert files(settings).read("uploads/avatars/none") is None


def in_bucket(tmp_path: Path, endpoint: str, **kw: Any) -> Files:
    return files(
        load_settings(
            _env_file=None,
            stoa_data_dir=tmp_path,
            stoa_files_url="s3://stoa/pictures",
            s3_endpoint=endpoint,
            s3_access_key_id="AKIAEXAMPLE",
            s3_secret_access_key="secret-of-the-bucket",
            **kw,
        )
    )


def test_files_stand_in_a_bucket(tmp_path: Path) -> None:
    with bucket() as server:
        store = in_bucket(tmp_path, server.address)
        address = pictures.store(store, picture())
        assert list(server.objects) == [f"/stoa/pictures{address}"]
        assert store.read(address[1:]) == server.objects[f"/stoa/pictures{address}"]
        assert store.read("uploads/avatars/none") is None
        assert all("AKIAEXAMPLE" in each and "us-east-1" in each for each in server.signed)
        server.broken = True
        with pytest.raises(FilesUnavailable) as caught:
            store.read(address[1:])
        assert caught.value.status == 503
        with pytest.raises(FilesUnavailable):
            pictures.store(store, picture())
    with pytest.raises(FilesUnavailable):
        store.read(address[1:])


@pytest.mark.parametrize("value", ["stoa", "https://bucket", "s3://", "file:///etc", "s3://a:b@c/d"])
def test_a_wrong_bucket_stops_the_start(value: str) -> None:
    with pytest.raises(SettingsError, match="STOA_FILES_URL"):
        load_settings(_env_file=None, stoa_files_url=value)


def test_incomplete_bucket_credentials_stop_the_start() -> None:
    with pytest.raises(SettingsError, match="S3_SECRET_ACCESS_KEY"):
        load_settings(_env_file=None, s3_access_key_id="AKIA")
