"""What goes wrong on a real server and on the way to it is told in one sentence that says what to do."""

import datetime
import os
import re

import pytest
from tls import make_certificate

from robust.errors import ConfigError, UserError
from robust.object_stores.s3_arrow import S3FileSystem
from robust.storage import MissingObject, Storage, open_input


def test_a_refusal_names_identity_action_and_object(s3, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    key = re.escape(f"key ...{os.environ['AWS_ACCESS_KEY_ID'][-4:]} (from the environment)")
    for action, permission in (
        (lambda s: s.read_bytes("a"), "GetObject"),
        (lambda s: s.write_bytes("a", b""), "PutObject"),
        (lambda s: s.list(), "ListBucket"),
        (lambda s: s.delete("a"), "DeleteObject"),
    ):
        with pytest.raises(
            UserError, match=rf"access denied: {key} may not s3:{permission} on s3://[\w-]+/prefix.* \(SignatureDoes"
        ):
            action(Storage(s3))


def test_the_arn_that_aws_tells_is_passed_on(s3, proxy):
    arn = "arn:aws:sts::123456789012:assumed-role/robust-worker/i-0abc"
    proxy.choose = lambda request: f"403 AccessDenied User: {arn} is not authorized to perform: s3:PutObject"
    with pytest.raises(
        UserError, match=rf"access denied: {arn}, key \.\.\.\w* \(from the environment\), may not s3:PutObject on"
    ):
        Storage(s3.model_copy(update={"endpoint_url": proxy.url})).write_bytes("a", b"")


def test_what_is_missing_is_told_apart(s3):
    with pytest.raises(MissingObject, match=rf"{s3.uri}/a does not exist at http://127.0.0.1:\d+"):
        Storage(s3).read_bytes("a")
    with pytest.raises(UserError, match="there is no bucket 'nowhere' at http://127"):
        Storage(s3.model_copy(update={"uri": "s3://nowhere/p"})).read_bytes("a")


@pytest.mark.parametrize("minutes, told", [(-60, r"3[56]\d\d s behind"), (60, r"3[56]\d\d s ahead of")])
def test_a_wrong_clock_is_told_with_its_error_and_remedy(s3, monkeypatch, minutes, told):
    """The real server refuses what a wrong clock has signed."""
    from botocore import auth, compat

    def wrong(remove_tzinfo=True):
        now = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=minutes)
        return now.replace(tzinfo=None) if remove_tzinfo else now

    monkeypatch.setattr(auth, "get_current_datetime", wrong)
    monkeypatch.setattr(compat, "get_current_datetime", wrong)
    with pytest.raises(
        UserError, match=rf"s3:ListBucket on .*RequestTimeTooSkewed.*clock is {told} the server's; set it right"
    ):
        Storage(s3).check()


def test_tls_with_an_authority_of_ones_own(s3, s3_server, tmp_path, monkeypatch):
    from fault_proxy import FaultProxy

    certificate, context = make_certificate(tmp_path)
    with FaultProxy(s3_server.endpoint_url, tls=context) as proxy:
        trusting = s3.model_copy(update={"endpoint_url": proxy.url, "ca_bundle": str(certificate)})
        storage = Storage(trusting)
        storage.write_bytes("a", b"x" * 100_000)
        filesystem, path = storage.arrow("a")
        assert storage.read_bytes("a") == filesystem.open_input_file(path).read() == b"x" * 100_000
        storage.delete_prefix("run")
        storage.delete("a")
        before = len(proxy.seen)
        untrusting = Storage(s3.model_copy(update={"endpoint_url": proxy.url, "max_attempts": 10}))
        with pytest.raises(
            UserError, match="certificate is not trusted: give the authority's certificate in storage.ca_bundle"
        ):
            untrusting.check()
        assert len(proxy.seen) == before
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        untrusting.check()
        with pytest.raises(UserError):
            Storage(
                s3.model_copy(update={"endpoint_url": proxy.url.replace("https", "http"), "max_attempts": 1})
            ).check()
    plain = s3_server.endpoint_url.replace("http://", "https://")
    with pytest.raises(UserError, match="does not speak TLS on this port: use http://"):
        Storage(s3.model_copy(update={"endpoint_url": plain})).check()


def test_a_bad_ca_bundle_is_told(s3, tmp_path):
    (tmp_path / "no.pem").write_text("no certificate")
    for path in (tmp_path / "no.pem", tmp_path / "gone.pem"):
        config = s3.model_copy(update={"ca_bundle": str(path)})
        for action in (Storage(config).check, lambda config=config: S3FileSystem(config)):
            with pytest.raises(
                ConfigError, match=rf"storage.ca_bundle .*{path.name}' is not a readable file of PEM certificates"
            ):
                action()


def test_another_region_is_told_with_the_right_one(s3, proxy):
    proxy.choose = lambda request: "400 AuthorizationHeaderMalformed the region is wrong"
    config = s3.model_copy(update={"endpoint_url": proxy.url, "region": "eu-west-1"})
    with pytest.raises(
        UserError, match=r"is not in region eu-west-1 \(AuthorizationHeaderMalformed\); set storage.region"
    ):
        Storage(config).write_bytes("a", b"")


def test_a_header_that_a_server_does_not_know_leads_to_the_setting(s3, proxy):
    proxy.choose = lambda request: (
        "501 NotImplemented A header you provided implies functionality that is not implemented"
    )
    with pytest.raises(UserError, match="failed: NotImplemented; .* try storage.checksums=md5"):
        Storage(s3.model_copy(update={"endpoint_url": proxy.url, "checksums": "crc"})).write_bytes("a", b"")


def test_pyarrow_is_refused_as_clearly(s3, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(UserError, match=r"cannot read s3://.*access denied: key \.\.\.\w{4} \(from the environment\)"):
        open_input(f"{s3.uri}/a", s3)
