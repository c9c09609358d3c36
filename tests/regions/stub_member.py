"""A region's member for tests: all of it real but the training platform, which is the test's.

``python stub_member.py REGIONS NAME URL``
"""

import json
import signal
import sys
import time
import urllib.error
import urllib.request

from jobs.retraining.backends.base import Submission, UnreachableError, payload_hash
from jobs.retraining.member import run
from jobs.retraining.regions import load_regions

TIMEOUT_S = 2.0
LISTING_S = 1.0
MODEL = "m"
CONCURRENCY = 100


class OverHttp:
    """A platform that makes a run of each request, and lists runs a while after they have begun."""

    name = "stub"
    hidden_s = 1.2 * (TIMEOUT_S + LISTING_S)

    def __init__(self, url):
        self.url = url

    def submit(self, incident_id, payload):
        told = self._ask({"incident_id": incident_id, "payload_hash": payload_hash(payload), "made": payload["made"]})
        return self._submission(told)

    def find(self, incident_id):
        told = self._ask(None, f"?incident_id={incident_id}")
        return self._submission(told) if told else None

    def _ask(self, content, query=""):
        data = None if content is None else json.dumps(content).encode()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(urllib.request.Request(self.url + query, data), timeout=TIMEOUT_S) as answer:
                return json.load(answer)
        except (urllib.error.URLError, OSError) as exc:
            raise UnreachableError(str(exc)) from exc

    def _submission(self, told):
        result = {"status": "succeeded", "uri": "", "version": "2", "decision": "promoted"} if told["done"] else None
        state = "succeeded" if told["done"] else "running"
        return Submission(told["incident_id"], told["run"], told["payload_hash"], state, 1, result)


class Ready:
    """Preparation that needs nothing, and is not the same in every region."""

    def __init__(self, name):
        self.name = name

    def payload(self, event):
        return {"incident_id": event["incident_id"], "margin": 0.0, "champion": None, "made": self.name}

    def missing(self, event):
        return []


def main():
    regions, name, url = load_regions(sys.argv[1]), sys.argv[2], sys.argv[3]
    stops = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: stops.append(number))

    def log(line):
        sys.stdout.write(json.dumps({"at": round(time.time(), 3), **line}) + "\n")
        sys.stdout.flush()

    run(regions, name, OverHttp(url), Ready(name), lambda: bool(stops), log, (MODEL,), CONCURRENCY)


if __name__ == "__main__":
    main()
