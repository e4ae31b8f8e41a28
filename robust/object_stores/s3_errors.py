"""What S3, botocore and the network report, as one sentence: who may not do what on what, and what to do."""

from __future__ import annotations

import re
from contextlib import contextmanager
from datetime import timezone
from email.utils import parsedate_to_datetime

from robust.errors import StorageError
from robust.object_stores import MissingObject
from robust.object_stores.address import endpoint_url
from robust.object_stores.s3_client import connect, region_of

# IAM's name of what an operation needs, where it is not "s3:<operation>".
PERMISSIONS = {
    "ListObjectsV2": "ListBucket",
    "HeadObject": "GetObject",
    "DeleteObjects": "DeleteObject",
    "CreateMultipartUpload": "PutObject",
    "UploadPart": "PutObject",
    "CompleteMultipartUpload": "PutObject",
}
SKEWED = ("RequestTimeTooSkewed", "RequestExpired")
DENIED = {
    "AccessDenied": "it lacks the permission",
    "AllAccessDisabled": "the account is closed to it",
    "403": "it lacks the permission",
    "Forbidden": "it lacks the permission",
    "InvalidAccessKeyId": "the store does not know this key",
    "SignatureDoesNotMatch": "its secret is wrong, or a proxy changes requests",
    "ExpiredToken": "it has expired; renew it",
    "InvalidToken": "its session token is wrong",
    "TokenRefreshRequired": "it has expired; renew it",
    "AccountProblem": "the account is closed to it",
}
ELSEWHERE = ("PermanentRedirect", "AuthorizationHeaderMalformed", "301", "IllegalLocationConstraintException")
_ARN = re.compile(r"\barn:aws[a-z-]*:(?:iam|sts)::\d*:[\w+=,.@/-]+")


@contextmanager
def explained(uri: str, bucket: str, config):
    """Turns botocore's errors into StorageError. Args: uri: what is acted on, without any secret.

    The error stays as the cause, but without botocore's frames: what shows local variables would show session tokens.
    """
    from boto3.exceptions import Boto3Error
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    try:
        yield
    except (exceptions.ClientError, exceptions.BotoCoreError, Boto3Error, ResponseParserError) as error:
        error.__cause__ = error.__context__ = None
        raise _sentence(error, uri, bucket, config) from error.with_traceback(None)


def _sentence(error: Exception, uri: str, bucket: str, config) -> StorageError:
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    if isinstance(error, exceptions.ClientError):
        return _of_an_answer(error, uri, bucket, config)
    if isinstance(
        error,
        (
            exceptions.NoCredentialsError,
            exceptions.CredentialRetrievalError,
            exceptions.PartialCredentialsError,
            exceptions.ProfileNotFound,
            exceptions.MetadataRetrievalError,
            exceptions.SSOError,
        ),
    ):
        return StorageError(
            f"no usable credentials for {uri} ({type(error).__name__}{_profile(config)}): set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or storage.profile or AWS_PROFILE, where the cluster's processes start, or give the "
            "machines a role."
        )
    if isinstance(error, exceptions.SSLError):
        return StorageError(_of_tls(error, uri, config))
    if isinstance(
        error,
        (exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.IncompleteReadError, ResponseParserError),
    ):
        return StorageError(
            f"cannot reach {_where(config)} for {uri} ({type(error).__name__}{_tries(config)}): is it up, and are "
            "storage.endpoint_url and the network right?"
        )
    return StorageError(f"cannot use {uri} ({type(error).__name__}: {error}); check the storage section.")


def _of_an_answer(error, uri: str, bucket: str, config) -> StorageError:
    told = error.response.get("Error", {})
    code = str(told.get("Code", "unknown"))
    action = PERMISSIONS.get(error.operation_name, error.operation_name)
    where = _where(config)
    if code in ("NoSuchKey", "404", "NotFound"):
        return MissingObject(f"{uri} does not exist at {where}.")
    if code == "NoSuchBucket":
        return StorageError(f"there is no bucket {bucket!r} at {where}; create it, or correct storage.uri.")
    if code in SKEWED:
        return StorageError(
            f"{where} refuses s3:{action} on {uri} ({code}): this machine's clock is {_skew(error)}; set it "
            "right (chrony or ntpd; timedatectl set-ntp true) and start again."
        )
    if code in DENIED:
        return StorageError(
            f"access denied: {_identity(told, config)} may not s3:{action} on {uri} at {where} ({code}): "
            f"{DENIED[code]}. Check the credentials where the process started, and that they may s3:{action} there."
        )
    if code in ELSEWHERE:
        region = told.get("Region") or error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get(
            "x-amz-bucket-region"
        )
        return StorageError(
            f"the bucket {bucket!r} is not in region {region_of(config)} ({code}); set storage.region"
            f"{f'={region}' if region else ''}."
        )
    if code in (
        "NotImplemented",
        "InvalidArgument",
        "MissingContentMD5",
        "MissingContentLength",
        "XAmzContentSHA256Mismatch",
    ):
        return StorageError(
            f"s3:{action} on {uri} at {where} failed: {code}; the server may not know a header of the request: try "
            "storage.checksums=md5."
        )
    tries = error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0) + 1
    return StorageError(
        f"s3:{action} on {uri} at {where} failed: {code}, after {tries} tries of at most {config.max_attempts} in "
        f"{config.retry_budget_s:g} s (storage.max_attempts, storage.retry_budget_s); the server refuses or is "
        "overloaded: see its log, or try again later."
    )


def _of_tls(error, uri: str, config) -> str:
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        why = (
            "its certificate is not trusted: give the authority's certificate in storage.ca_bundle or AWS_CA_BUNDLE, and use "
            "the name that the certificate is for"
        )
    elif "WRONG_VERSION_NUMBER" in text.upper().replace(" ", "_") or "RECORD_LAYER_FAILURE" in text.upper().replace(
        " ", "_"
    ):
        why = "it does not speak TLS on this port: use http:// in storage.endpoint_url, or its TLS port"
    else:
        why = f"TLS failed{_tries(config)}: is it up, and is something between that ends TLS?"
    return f"cannot talk to {_where(config)} for {uri}: {why}."


def _skew(error) -> str:
    """By how much, from the Date of the server's answer."""
    try:
        served = parsedate_to_datetime(error.response["ResponseMetadata"]["HTTPHeaders"]["date"])
    except (KeyError, ValueError, TypeError):
        return "wrong"
    from botocore.compat import get_current_datetime  # what signed the request

    behind = (served - get_current_datetime().replace(tzinfo=timezone.utc)).total_seconds()
    return f"{abs(behind):.0f} s {'behind' if behind > 0 else 'ahead of'} the server's"


def _identity(told: dict, config) -> str:
    """The ARN, if the store tells it (AWS does), and the key."""
    arn = _ARN.search(str(told.get("Message", "")))
    who = connect(config).identity()
    return f"{arn[0]}, {who}," if arn else who


def _where(config) -> str:
    return endpoint_url(config) or f"AWS in {region_of(config)}"


def _profile(config) -> str:
    return f", profile {config.profile}" if config.profile else ""


def _tries(config) -> str:
    return f", at most {config.max_attempts} tries in {config.retry_budget_s:g} s"
