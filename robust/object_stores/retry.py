"""When a request is sent again: after what may pass, with random waits, never beyond a number of tries and of seconds.

Waits are drawn from [0, min(cap, base * 2^n)] ("full jitter"), so that a thousand workers that a server turned away
at once do not come back at once. Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

import random
import time

BASE_S, CAP_S = 0.5, 20.0
PASSING_STATUS = (429, 500, 502, 503, 504)
PASSING_CODES = frozenset(
    {
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "RequestLimitExceeded",
        "TooManyRequests",
        "BandwidthLimitExceeded",
        "RequestTimeout",
        "RequestTimeoutException",
        "PriorRequestNotComplete",
        "InternalError",
        "ServiceUnavailable",
        "BadDigest",
        "IncompleteBody",
        "XAmzContentSHA256Mismatch",  # damaged on the way: sent again, it may arrive whole
    }
)
HOPELESS_TLS = ("CERTIFICATE_VERIFY_FAILED", "WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE")


class Tries:
    """The tries of one request.

    Args:
        max_attempts: tries in all.
        budget_s: seconds in all; no wait begins that would end later.
    """

    def __init__(self, max_attempts: int, budget_s: float):
        self.max_attempts, self.budget_s = max_attempts, budget_s
        self.restart()

    def restart(self) -> None:
        """The request made progress: its tries and seconds count anew."""
        self.made, self.began = 1, time.monotonic()

    def wait(self) -> float | None:
        """Seconds to wait before the next try; None: there is none."""
        seconds = next_wait(
            self.made, time.monotonic() - self.began, max_attempts=self.max_attempts, budget_s=self.budget_s
        )
        self.made += 1
        return seconds

    def sleep(self) -> bool:
        """Waits before the next try; False: there is none."""
        seconds = self.wait()
        if seconds is not None:
            time.sleep(seconds)
        return seconds is not None


def next_wait(made: int, elapsed_s: float, *, max_attempts: int, budget_s: float, asked_s: float = 0.0) -> float | None:
    """Seconds before try `made` + 1, or None when the tries or the seconds are spent.

    Args:
        made: tries so far, at least 1.
        asked_s: what the server asked for (Retry-After); waited at least.
    """
    wait = max(random.uniform(0, min(CAP_S, BASE_S * 2 ** (made - 1))), asked_s)
    return wait if made < max_attempts and elapsed_s + wait <= budget_s else None


class BotocoreRetries:
    """Decides about the retries of a boto3 client, in the place of botocore's own modes, which know no budget."""

    def __init__(self, max_attempts: int, budget_s: float):
        self.max_attempts, self.budget_s = max_attempts, budget_s

    def install(self, client) -> None:
        client.meta.events.unregister("needs-retry.s3", unique_id="retry-config-s3")
        client.meta.events.register("before-call.s3", self.begin)
        client.meta.events.register("needs-retry.s3", self.needs_retry)

    def begin(self, context, **_) -> None:
        context["storage_began"] = time.monotonic()

    def needs_retry(self, response, attempts, caught_exception, request_dict, **_) -> float | None:
        if not may_pass(response, caught_exception):
            return None
        began = request_dict["context"].setdefault("storage_began", time.monotonic())
        return next_wait(
            attempts,
            time.monotonic() - began,
            max_attempts=self.max_attempts,
            budget_s=self.budget_s,
            asked_s=_retry_after(response),
        )


def may_pass(response, exception: Exception | None) -> bool:
    """Whether the same request may succeed later. Args: response: (http response, parsed answer), or None."""
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    if isinstance(exception, exceptions.SSLError):
        return not any(sign in str(exception).upper().replace(" ", "_") for sign in HOPELESS_TLS)
    if exception is not None:
        return isinstance(exception, (exceptions.ConnectionError, exceptions.HTTPClientError, ResponseParserError))
    http, parsed = response
    return http.status_code in PASSING_STATUS or parsed.get("Error", {}).get("Code") in PASSING_CODES


def _retry_after(response) -> float:
    text = response[0].headers.get("Retry-After", "") if response is not None else ""
    return float(text) if text.isdigit() else 0.0
