"""The region of this machine is taken only from a metadata service that answers by its own protocol."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from carbon_plugin.footprint.live import cloud as clouds
from carbon_plugin.footprint.live.cloud import find_region
from carbon_plugin.monitor.settings.settings import make_settings

Asked = list[tuple[str, str, dict[str, str]]]


class Metadata:
    """A real HTTP server with answers by method and path; `asked` are the requests."""

    def __init__(self, answers: dict[tuple[str, str], str]) -> None:
        self.asked: Asked = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                service.asked.append((self.command, self.path, headers))
                text = answers.get((self.command, self.path.partition("?")[0]))
                self.send_response(404 if text is None else 200)
                body = (text or "").encode()
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = answer  # noqa: N815  # the names that http.server calls

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture(autouse=True)
def patience(monkeypatch) -> None:
    """Wait for the answers of a busy machine, and ask no service of the machine that the tests run on."""
    monkeypatch.setattr(clouds, "DEADLINE_S", 60.0)
    monkeypatch.setattr(clouds, "ADDRESSES", dict.fromkeys(clouds.ADDRESSES, NOBODY))


@pytest.fixture
def metadata() -> Iterator[Callable[[dict[tuple[str, str], str]], Metadata]]:
    found: list[Metadata] = []

    def one(answers: dict[tuple[str, str], str]) -> Metadata:
        found.append(Metadata(answers))
        return found[-1]

    yield one
    for service in found:
        service.server.shutdown()
        service.server.server_close()


NOBODY = "http://127.0.0.1:9"
AWS = {("PUT", "/latest/api/token"): "a-token", ("GET", "/latest/meta-data/placement/region"): "eu-north-1"}
GCP = {("GET", "/computeMetadata/v1/instance/zone"): "projects/12/zones/us-central1-a"}
AZURE = {("GET", "/metadata/instance/compute/location"): "westeurope"}


@pytest.mark.parametrize(
    ("cloud", "answers", "zone", "header"),
    [
        ("aws", AWS, "aws:eu-north-1", ("x-aws-ec2-metadata-token", "a-token")),
        ("gcp", GCP, "gcp:us-central1", ("metadata-flavor", "Google")),
        ("azure", AZURE, "azure:westeurope", ("metadata", "true")),
    ],
)
def test_each_cloud_is_asked_by_its_own_protocol(metadata, cloud, answers, zone, header):
    service = metadata(answers)

    found = find_region({}, {"aws": NOBODY, "gcp": NOBODY, "azure": NOBODY} | {cloud: service.url})

    assert found.zone == zone
    assert f"{cloud} says " in found.said
    assert service.asked[-1][2][header[0]] == header[1]


@pytest.mark.parametrize(
    "answers",
    [
        {},
        {("PUT", "/latest/api/token"): "a-token", ("GET", "/latest/meta-data/placement/region"): "<html>log in</html>"},
        {
            ("GET", "/latest/meta-data/placement/region"): "eu-north-1"
        },  # the old version of the protocol, or an imitation
        {("GET", "/computeMetadata/v1/instance/zone"): "somewhere"},
    ],
)
def test_whatever_else_answers_is_believed_nothing(metadata, answers):
    service = metadata(answers)

    found = find_region({}, {"aws": service.url, "gcp": service.url, "azure": service.url})

    assert found.zone is None
    assert "none tells a region, so no zone is taken" in found.said


def test_two_clouds_are_none(metadata):
    service = metadata(AWS | AZURE)

    found = find_region({}, {"aws": service.url, "gcp": service.url, "azure": service.url})

    assert found.zone is None
    assert "aws says eu-north-1" in found.said
    assert "more than one answers" in found.said


def test_site_auto_is_the_region_with_the_other_fields_of_the_site(metadata, monkeypatch):
    service, nobody = metadata(GCP), metadata({})
    monkeypatch.setenv("GCE_METADATA_HOST", service.url.removeprefix("http://"))
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", nobody.url)

    settings = make_settings(site={"zone": "auto", "pue": 1.1})

    assert settings.declared.site is not None
    assert (settings.declared.site.zone, settings.declared.site.pue) == ("gcp:us-central1", 1.1)
    ((kind, sentence),) = settings.notes
    assert (kind, "gcp says us-central1" in sentence) == ("site_auto", True)


def test_nobody_is_asked_unless_the_site_is_auto(metadata, monkeypatch):
    service = metadata(AWS)
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.url)

    make_settings(site="FRA")
    make_settings()

    assert service.asked == []
