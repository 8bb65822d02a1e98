"""The headers of the tus protocol."""

from base64 import b64encode
from datetime import UTC, datetime
from hashlib import sha1

import pytest
from starlette.datastructures import Headers

from service import tus
from service.errors import (
    InvalidTusHeader,
    TusBodyUnsupported,
    TusVersionUnsupported,
    UploadEncoded,
    UploadTooLarge,
)


def encoded(text):
    return b64encode(text.encode()).decode()


class TestVersion:
    def test_the_version_of_the_protocol_is_accepted(self):
        tus.require_version(Headers({"tus-resumable": "1.0.0"}))

    @pytest.mark.parametrize("headers", [{}, {"tus-resumable": "0.2.2"}])
    def test_others_are_refused(self, headers):
        with pytest.raises(TusVersionUnsupported):
            tus.require_version(Headers(headers))


class TestCreation:
    def test_size_and_name_are_read(self):
        metadata = f"filetype {encoded('video/mp4')},filename {encoded('ä b.mp4')},empty"
        headers = Headers({"upload-length": "12", "upload-metadata": metadata})

        assert tus.read_creation(headers, 12) == tus.Creation(12, "ä b.mp4")

    def test_a_name_is_not_needed(self):
        assert tus.read_creation(Headers({"upload-length": "12"}), 12).filename is None

    def test_a_long_name_is_cut(self):
        headers = Headers(
            {"upload-length": "1", "upload-metadata": f"filename {encoded('n' * 999)}"}
        )

        assert tus.read_creation(headers, 12).filename == "n" * 255

    def test_a_size_over_the_limit_is_refused(self):
        with pytest.raises(UploadTooLarge):
            tus.read_creation(Headers({"upload-length": "13"}), 12)

    @pytest.mark.parametrize("length", ["", "-1", "1e3", "0", "²", "9" * 30, " 1 2"])
    def test_a_size_that_is_no_positive_number_is_refused(self, length):
        with pytest.raises(InvalidTusHeader):
            tus.read_creation(Headers({"upload-length": length}), 12)

    def test_the_size_must_be_known(self):
        with pytest.raises(InvalidTusHeader, match="deferral"):
            tus.read_creation(Headers({"upload-defer-length": "1"}), 12)


@pytest.mark.parametrize(
    "header",
    [
        "filename not-base64!",
        "filename YQ==,filename YQ==",
        ",filename YQ==",
        "filename /w==",  # not UTF-8
        "filename é",
    ],
)
def test_malformed_metadata_is_refused(header):
    with pytest.raises(InvalidTusHeader):
        tus.read_metadata(header)


class TestChecksum:
    def test_it_is_compared_with_the_bytes(self):
        digest = b64encode(sha1(b"abc").digest()).decode()
        checksum = tus.read_checksum(Headers({"upload-checksum": f"sha1 {digest}"}))
        good, bad = checksum.new_hash(), checksum.new_hash()
        good.update(b"abc")
        bad.update(b"abd")

        assert checksum.fits(good)
        assert not checksum.fits(bad)

    def test_it_is_optional(self):
        assert tus.read_checksum(Headers({})) is None

    @pytest.mark.parametrize("header", ["crc32 AAAA", "sha1", "sha1 !", "sha1 AAAA", "sha256 AAAA"])
    def test_a_malformed_one_is_refused(self, header):
        with pytest.raises(InvalidTusHeader):
            tus.read_checksum(Headers({"upload-checksum": header}))


class TestBody:
    def test_a_part_of_the_file_is_accepted(self):
        tus.require_body_type(Headers({"content-type": tus.BODY_TYPE}))

    def test_other_types_are_refused(self):
        with pytest.raises(TusBodyUnsupported):
            tus.require_body_type(Headers({"content-type": "video/mp4"}))

    def test_a_compressed_body_is_refused(self):
        with pytest.raises(UploadEncoded):
            tus.require_body_type(
                Headers({"content-type": tus.BODY_TYPE, "content-encoding": "gzip"})
            )


def test_an_expiry_is_an_http_date():
    assert tus.http_date(datetime(2026, 3, 1, tzinfo=UTC)) == "Sun, 01 Mar 2026 00:00:00 GMT"
