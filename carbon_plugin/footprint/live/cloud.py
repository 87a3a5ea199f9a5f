"""Ask the metadata services of clouds in which region this machine is. Only a site "auto" asks them.

An answer counts only if it follows the service's own protocol and names a region in its own form. Nothing is guessed:
if no service answers, or two do, there is no region. `CloudAnswers.said` says what each of them answered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from carbon_plugin.net.http import HttpClient, HttpError

Cloud = Literal["aws", "gcp", "azure"]
DEADLINE_S = 0.3
ADDRESS_VARIABLES: dict[Cloud, str] = {"aws": "AWS_EC2_METADATA_SERVICE_ENDPOINT", "gcp": "GCE_METADATA_HOST"}
"""The variables by which the providers' own libraries find another address."""
ADDRESSES: dict[Cloud, str] = {
    "aws": "http://169.254.169.254",
    "gcp": "http://169.254.169.254",
    "azure": "http://169.254.169.254",
}
"""All three answer at this number, also Google's. Looking up a name could take seconds where there is no such cloud."""
_AWS_REGION = re.compile(r"[a-z]{2}(?:-[a-z]+)+-\d")
_GCP_ZONE = re.compile(r"projects/[^/]+/zones/([a-z]+-[a-z]+\d+)-[a-z]")
_AZURE_LOCATION = re.compile(r"[a-z][a-z0-9]+")
_TOKEN_S = "60"


class CloudAnswers(Struct, frozen=True, kw_only=True):
    """Holds the answers of the services. `zone` is a zone such as "aws:eu-north-1", or None, and `said` is a
    sentence.
    """

    zone: str | None
    said: str


def find_region(environ: Mapping[str, str], addresses: Mapping[Cloud, str] | None = None) -> CloudAnswers:
    """Return the region of this machine. Each service has 0.3 s to answer.

    `addresses` replaces the addresses of the services. Without it, the variables by which the providers' own libraries
    find another address apply.
    """
    regions: dict[Cloud, str] = {}
    answers = []
    for cloud in ADDRESSES:
        try:
            regions[cloud] = _ASK[cloud](HttpClient((addresses or _addresses(environ))[cloud]))
            answers.append(f"{cloud} says {regions[cloud]}")
        except HttpError as error:
            answers.append(f"{cloud} {error}")
    said = f"site auto: metadata services: {'; '.join(answers)}"
    if len(regions) == 1:
        ((cloud, region),) = regions.items()
        return CloudAnswers(zone=f"{cloud}:{region}", said=f"{said}: the zone is {cloud}:{region}")
    why = "more than one answers" if regions else "none tells a region"
    return CloudAnswers(zone=None, said=f"{said}: {why}, so no zone is taken; pass one, for instance site='FRA'")


def _addresses(environ: Mapping[str, str]) -> dict[Cloud, str]:
    stated = {cloud: environ.get(name, "").strip() for cloud, name in ADDRESS_VARIABLES.items()}
    return ADDRESSES | {cloud: at if "://" in at else f"http://{at}" for cloud, at in stated.items() if at}


def _aws(client: HttpClient) -> str:
    """Return the region from version 2 of the instance metadata service, which requires a token."""
    token = client.send(
        "PUT", "/latest/api/token", deadline_s=DEADLINE_S, headers={"X-aws-ec2-metadata-token-ttl-seconds": _TOKEN_S}
    )
    headers = {"X-aws-ec2-metadata-token": _text(token)}
    answer = _text(client.get("/latest/meta-data/placement/region", deadline_s=DEADLINE_S, headers=headers))
    return _checked(answer, _AWS_REGION)


def _gcp(client: HttpClient) -> str:
    headers = {"Metadata-Flavor": "Google"}
    answer = _text(client.get("/computeMetadata/v1/instance/zone", deadline_s=DEADLINE_S, headers=headers))
    return _checked(answer, _GCP_ZONE)


def _azure(client: HttpClient) -> str:
    answer = client.get(
        "/metadata/instance/compute/location",
        deadline_s=DEADLINE_S,
        params={"api-version": "2021-02-01", "format": "text"},
        headers={"Metadata": "true"},
    )
    return _checked(_text(answer), _AZURE_LOCATION)


_ASK = {"aws": _aws, "gcp": _gcp, "azure": _azure}


def _text(answer: bytes) -> str:
    text = answer[:200].decode("ascii", errors="replace").strip()
    if not text or not text.isprintable():
        raise HttpError("answers with no region", "malformed")
    return text


def _checked(answer: str, form: re.Pattern[str]) -> str:
    """Return the region in an answer. Raises `HttpError` for an answer in another form."""
    match = form.fullmatch(answer)
    if match is None:
        raise HttpError("answers with no region", "malformed")
    return match.group(match.lastindex or 0)
