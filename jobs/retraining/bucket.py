"""A witness's journal in an object store that writes on a condition (S3's ``If-Match``): a vote without a third place.

Each region runs a process for the same witness. One of them holds the object: it has written it last, and goes on
writing it. The other looks on, and takes the object once it has not changed for longer than a lease, as one takes up
the file of a witness that has died. Who has lost it can say nothing more in the witness's name, since what a witness
says is in its journal first, and the store refuses a write by whoever has not read the last one.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
"""

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from jobs.retraining.witness import JournalError, Told, journal_key

__all__ = ["BucketJournal", "LostError"]

REFUSED = ("PreconditionFailed", "ConditionalRequestConflict")
KEEP_S = 1.0


class LostError(JournalError):
    """Another process has the journal now."""


class BucketJournal:
    """See :class:`jobs.retraining.witness.Journal`; nothing can be read or written before :meth:`take`.

    Parameters
    ----------
    url : str
        ``s3://bucket/key``.
    name : str
        Of the witness.
    patience_s : float
        For so long the object has to stay as it is before another process takes it; longer than a lease.
    client : S3 client of boto3, optional
    clock, sleep : callable
        Seconds of a clock that never goes back, and a wait.
    """

    def __init__(
        self,
        url: str,
        name: str,
        patience_s: float,
        client: Any = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        at = urlsplit(url)
        self._place = {"Bucket": at.netloc, "Key": at.path.lstrip("/")}
        self._url, self._name, self._patience_s, self._clock, self._sleep = url, name, patience_s, clock, sleep
        self._holder = uuid.uuid4().hex
        self._client = client or _client()
        self._tag = ""
        self._turn = 0
        self._told: dict[str, Told] = {}
        self._kept_at = 0.0

    def take(self, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Wait until nobody writes to the object any more, and take it; False where told to stop before.

        Raises
        ------
        JournalError
            Where the store does not answer, or the object is another witness's.
        """
        seen, since = None, self._clock()
        while not stopped():
            tag, content = self._read()
            if tag != seen:
                seen, since = tag, self._clock()
            if tag == "" or self._clock() - since >= self._patience_s:
                self._tag, self._turn = tag, content.get("turn", 0)
                self._told = {key: (topic, record) for key, topic, record in content.get("told", [])}
                try:
                    self._write()
                except LostError:  # somebody else has lost patience too
                    seen = None
                    continue
                return True
            self._sleep(min(KEEP_S, self._patience_s / 4))
        return False

    def read(self) -> Iterator[Told]:
        """Topics and records."""
        yield from list(self._told.values())

    def write(self, told: Iterable[Told]) -> None:
        """Keep records; they are in the store when this returns.

        Raises
        ------
        LostError
            Where another process has taken the object; nothing is kept then.
        JournalError
            Where the store does not answer.
        """
        keyed = [(journal_key(self._name, topic, record), (topic, record)) for topic, record in told]
        if new := {f"{each[0]}/{key}": each for key, each in keyed if key}:
            self._told |= new
            self._write()

    def keep(self) -> None:
        """Show that the object is held, now and then."""
        if self._clock() - self._kept_at >= min(KEEP_S, self._patience_s / 4):
            self._write()

    def close(self) -> None:
        """Nothing is open."""

    def _read(self) -> tuple[str, Mapping[str, Any]]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            found = self._client.get_object(**self._place)
            content = json.loads(found["Body"].read())
        except ClientError as exc:
            if exc.response["Error"]["Code"] == "NoSuchKey":
                return "", {}
            raise JournalError(f"{self._url}: expected a witness's journal, got {exc}") from exc
        except (BotoCoreError, ValueError) as exc:
            raise JournalError(f"{self._url}: expected a witness's journal, got {exc}") from exc
        if content.get("witness") != self._name:
            raise JournalError(f"{self._url}: expected that of witness {self._name}, got that of {content['witness']}")
        return str(found["ETag"]), content

    def _write(self) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        told = [[key, topic, record] for key, (topic, record) in self._told.items()]
        # No two contents are the same: the tag of an object is that of its content.
        said = {"witness": self._name, "holder": self._holder, "turn": self._turn + 1, "told": told}
        condition = {"IfMatch": self._tag} if self._tag else {"IfNoneMatch": "*"}
        try:
            done = self._client.put_object(**self._place, Body=json.dumps(said).encode(), **condition)
            tag = str(done["ETag"])
        except ClientError as exc:
            if exc.response["Error"]["Code"] not in REFUSED:
                raise JournalError(f"{self._url}: expected to write to it, got {exc}") from exc
            # A write whose answer was lost is sent again by the client, and refused for what it did itself.
            tag, there = self._read()
            if (there.get("holder"), there.get("turn")) != (self._holder, self._turn + 1):
                raise LostError(f"{self._url}: another process of witness {self._name} has it now") from exc
        except BotoCoreError as exc:
            raise JournalError(f"{self._url}: expected to write to it, got {exc}") from exc
        self._tag, self._turn, self._kept_at = tag, self._turn + 1, self._clock()


def _client() -> Any:
    try:
        import boto3
    except ModuleNotFoundError as exc:
        raise JournalError("a witness's state in S3 needs boto3: install headwater[aws]") from exc
    return boto3.client("s3")
