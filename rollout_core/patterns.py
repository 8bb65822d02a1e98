"""The forms of texts that we read, as regular expressions, and in words for errors."""

HTTP_URL = r"^https?://[^\s]+$"
ID = r"^[0-9a-f]{32}$"
SHA256 = r"^[0-9a-f]{64}$"
ONE_LINE = r"^[^\x00-\x1f\x7f]+$"
VISIBLE_ASCII = r"^[\x21-\x7e]+$"
MODEL_NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
MODEL = r"^[a-z0-9][a-z0-9._-]{0,63}(=.+)?$"
REQUEST_ID = r"^[A-Za-z0-9._:/=+@-]{1,128}$"
TRACEPARENT = r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"
URL_PATH = r"^(/[A-Za-z0-9_~-]+)+$"
BUCKET_URL = r"^s3://[A-Za-z0-9][A-Za-z0-9._-]*(/[^?#]*)?$"
CURSOR = r"^[0-9]{1,10}\.[0-9]{6}-[0-9a-f]{32}$"
"""Form of a page cursor: creation time in seconds, to the microsecond, and job id."""

_NAME = "1 to 64 lower-case letters, digits and . _ -, the first one a letter or a digit"

WORDS = {
    HTTP_URL: "must be an address that begins with http:// or https://, without spaces",
    ID: "must be an id of 32 hexadecimal digits, in lower case",
    SHA256: "must be 64 hexadecimal digits, in lower case",
    ONE_LINE: "must not have control characters, such as line breaks",
    VISIBLE_ASCII: "must have visible ASCII characters only, and no spaces",
    MODEL_NAME: f"must be the name of a model: {_NAME}",
    MODEL: f"must be NAME or NAME=CHECKPOINT; a name has {_NAME}",
    URL_PATH: "must be a path such as /explain",
    BUCKET_URL: "must be like s3://bucket/prefix",
    CURSOR: "must be the next_cursor of a page",
}
"""What a text of each form must be."""
