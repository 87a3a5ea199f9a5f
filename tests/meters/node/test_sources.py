"""Each source of a node's power against a real server, a real command or real files, shaped as the real ones are."""

from __future__ import annotations

import base64
import json
import os
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from carbon_plugin.meters.node.address import parse_address
from carbon_plugin.meters.node.open import load_source, open_source
from carbon_plugin.meters.node.source import NodeAnswer, NodeSource, SourceError

CHASSIS = "/redfish/v1/Chassis"
CREDENTIALS = {"CARBON_PLUGIN_NODE_METER_USER": "reader", "CARBON_PLUGIN_NODE_METER_PASSWORD": "hunter2"}


class Site:
    """A server on this machine: `answers` by path, and the headers and queries that came."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.status = 200
        self.drip = False
        self.redirects: dict[str, str] = {}
        self.headers: list[dict[str, str]] = []
        self.queries: list[str] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                site.headers.append(dict(self.headers))
                site.queries += parse_qs(parts.query).get("query", [])
                if parts.path in site.redirects:
                    self.send_response(308)
                    self.send_header("Location", site.redirects[parts.path])
                    self.end_headers()
                    return
                known = parts.path in site.answers
                self.send_response(site.status if known else 404)
                self.end_headers()
                body = site.answers.get(parts.path, "")
                content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                if not site.drip:
                    self.wfile.write(content)
                    return
                for _ in range(40):  # one byte at a time: each read is in time, the whole is not
                    self.wfile.write(b" ")
                    time.sleep(0.05)

            def log_message(self, *_arguments: object) -> None:
                """Write nothing on standard error."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.place = f"127.0.0.1:{self.server.server_port}"
        self.thread = Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.server.shutdown()
    site.server.server_close()


def source(text: str, **environ: str) -> NodeSource:
    return open_source(parse_address(text), environ)


def failure(asked: NodeSource, deadline_s: float = 60.0) -> SourceError:
    with pytest.raises(SourceError) as raised:
        asked.ask(deadline_s)
    return raised.value


def command(folder: Path, name: str, script: str) -> str:
    """Make a command of this name that runs a script, and return the PATH that finds it."""
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_redfish_tells_power_and_a_counter_of_the_chassis_that_the_address_names(site: Site) -> None:
    site.answers[f"{CHASSIS}/HGX/EnvironmentMetrics"] = {
        "PowerWatts": {"Reading": 7120.5, "DataSourceUri": "/redfish/v1/..."},
        "EnergykWh": {"Reading": 1234.0},
        "EnergyJoules": {"Reading": 4.4424e9},
    }
    asked = source(f"redfish+http://{site.place}{CHASSIS}/HGX", **CREDENTIALS)
    assert asked.ask(60.0) == NodeAnswer(4.4424e9, 7120.5)
    expected = base64.b64encode(b"reader:hunter2").decode()
    assert site.headers[-1]["Authorization"] == f"Basic {expected}"


def test_an_older_redfish_service_tells_power_control(site: Site) -> None:
    site.answers[f"{CHASSIS}/1/Power"] = {"PowerControl": [{"PowerConsumedWatts": 6100}, {"PowerConsumedWatts": 80}]}
    assert source(f"redfish+http://{site.place}{CHASSIS}/1").ask(60.0) == NodeAnswer(None, 6100.0)


def test_the_only_chassis_that_tells_its_power_is_found(site: Site) -> None:
    site.answers[CHASSIS] = {"Members": [{"@odata.id": f"{CHASSIS}/{name}"} for name in ("BMC", "System")]}
    site.answers[f"{CHASSIS}/System/Power"] = {"PowerControl": [{"PowerConsumedWatts": 900}]}
    assert source(f"redfish+http://{site.place}").ask(60.0) == NodeAnswer(None, 900.0)


def test_several_chassis_that_tell_their_power_are_not_guessed_between(site: Site) -> None:
    site.answers[CHASSIS] = {"Members": [{"@odata.id": f"{CHASSIS}/{name}"} for name in ("A", "B")]}
    for name in ("A", "B"):
        site.answers[f"{CHASSIS}/{name}/Power"] = {"PowerControl": [{"PowerConsumedWatts": 900}]}
    error = failure(source(f"redfish+http://{site.place}"))
    assert error.code == "not_supported"
    assert f"2 chassis tell their power ({CHASSIS}/A, {CHASSIS}/B)" in str(error)


CPU_ONLY = [{"Name": "System Power Control"}, {"Name": "CPU Sub-system Power", "PowerConsumedWatts": 93}]


@pytest.mark.parametrize(
    ("controls", "watts"),
    [
        ([{"Name": "System Power Control", "PowerConsumedWatts": 700}, {"PowerConsumedWatts": 80}], 700),
        ([{"Name": "Chassis 1", "PowerConsumedWatts": None}, {"Name": "Server", "PowerConsumedWatts": 610}], 610),
        (CPU_ONLY, None),
        ([{"PowerConsumedWatts": None}, {"PowerConsumedWatts": 80}], None),
        ([{"Name": "CPU Power", "PowerConsumedWatts": 93}, {"Name": "Memory Power", "PowerConsumedWatts": 20}], None),
    ],
)
def test_a_part_of_a_chassis_is_never_taken_for_the_node(
    site: Site, controls: list[dict[str, Any]], watts: float | None
) -> None:
    site.answers[f"{CHASSIS}/1/Power"] = {"PowerControl": controls}
    asked = source(f"redfish+http://{site.place}{CHASSIS}/1")
    if watts is not None:
        assert asked.ask(60.0) == NodeAnswer(None, watts)
    else:
        assert failure(asked).code == "not_supported"


def test_a_control_without_value_is_named_also_where_the_chassis_is_searched(site: Site) -> None:
    site.answers[CHASSIS] = {"Members": [{"@odata.id": f"{CHASSIS}/1"}]}
    site.answers[f"{CHASSIS}/1/Power"] = {"PowerControl": CPU_ONLY}
    assert "(there are System Power Control, CPU Sub-system Power)" in str(
        failure(source(f"redfish+http://{site.place}"))
    )


def test_a_service_whose_paths_all_end_in_a_slash_is_followed(site: Site) -> None:
    site.answers[f"{CHASSIS}/"] = {"Members": [{"@odata.id": f"{CHASSIS}/1/"}]}
    site.answers[f"{CHASSIS}/1/Power/"] = {"PowerControl": [{"PowerConsumedWatts": 93}]}
    for path in (CHASSIS, f"{CHASSIS}/1/Power", f"{CHASSIS}/1/EnvironmentMetrics"):
        site.redirects[path] = f"{path}/"
    assert source(f"redfish+http://{site.place}", **CREDENTIALS).ask(60.0) == NodeAnswer(None, 93.0)
    site.redirects[f"{CHASSIS}/1/Power"] = f"http://{site.place}{CHASSIS}/1/Power/"
    assert source(f"redfish+http://{site.place}{CHASSIS}/1/", **CREDENTIALS).ask(60.0) == NodeAnswer(None, 93.0)


@pytest.mark.parametrize("elsewhere", ["http://127.0.0.1:9/redfish", "https://other.example/", "//other.example/"])
def test_a_redirect_to_another_host_is_not_followed_with_our_credentials(site: Site, elsewhere: str) -> None:
    site.redirects[f"{CHASSIS}/1/EnvironmentMetrics"] = elsewhere
    error = failure(source(f"redfish+http://{site.place}{CHASSIS}/1", **CREDENTIALS))
    assert error.code == "error"
    assert "redirects to another host" in str(error)


@pytest.mark.parametrize(("status", "code"), [(401, "refused"), (403, "refused"), (503, "error")])
def test_a_service_that_refuses_is_told_apart_and_no_credentials_are_shown(site: Site, status: int, code: str) -> None:
    site.answers[f"{CHASSIS}/1/EnvironmentMetrics"] = {}
    site.status = status
    error = failure(source(f"redfish+http://{site.place}{CHASSIS}/1", **CREDENTIALS))
    assert error.code == code
    assert "hunter2" not in str(error)


def test_nobody_at_the_address_is_unreachable() -> None:
    assert failure(source("redfish+http://127.0.0.1:9/redfish/v1/Chassis/1")).code == "unreachable"


def test_a_server_that_drips_bytes_is_left_at_the_deadline(site: Site) -> None:
    site.answers["/api/v1/query"], site.drip = {}, True
    error = failure(source(f"prometheus+http://{site.place}?query=x"), deadline_s=0.2)
    assert error.code == "unreachable"
    assert "no answer within 0.2 s" in str(error)


def test_plain_http_is_no_tls(site: Site) -> None:
    assert failure(source(f"redfish://{site.place}{CHASSIS}/1")).code == "unreachable"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_a_certificate_is_checked_unless_the_address_says_otherwise(site: Site, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = f"openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=127.0.0.1 -keyout {key} -out {certificate}"
    subprocess.run([*made.split(), "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    site.server.socket = context.wrap_socket(site.server.socket, server_side=True)
    site.answers[f"{CHASSIS}/1/Power"] = {"PowerControl": [{"PowerConsumedWatts": 500}]}
    address = f"redfish://{site.place}{CHASSIS}/1"
    assert failure(source(address)).code == "unreachable"
    assert source(f"{address}?ca={certificate}").ask(60.0) == NodeAnswer(None, 500.0)
    assert source(f"{address}?verify=no").ask(60.0) == NodeAnswer(None, 500.0)


def test_a_ca_file_that_is_not_there_is_named() -> None:
    with pytest.raises(SourceError, match=r"ca=/nowhere\.pem cannot be used"):
        source("redfish://bmc7?ca=/nowhere.pem")


def test_a_prometheus_query_gives_power(site: Site) -> None:
    query = 'sum(ipmi_dcmi_power_consumption_watts{node="n7"})'
    vector = {"resultType": "vector", "result": [{"metric": {}, "value": [1719830000.1, "5210.5"]}]}
    site.answers["/prom/api/v1/query"] = {"status": "success", "data": vector}
    address = f"prometheus+http://{site.place}/prom?query=sum(ipmi_dcmi_power_consumption_watts%7Bnode%3D%22n7%22%7D)"
    assert source(address, CARBON_PLUGIN_NODE_METER_TOKEN="secret").ask(60.0) == NodeAnswer(None, 5210.5)
    assert site.queries == [query]
    assert site.headers[-1]["Authorization"] == "Bearer secret"


def test_a_prometheus_counter_is_in_joules(site: Site) -> None:
    site.answers["/api/v1/query"] = {"data": {"resultType": "scalar", "result": [1.0, "12000"]}}
    assert source(f"prometheus+http://{site.place}?query=x&unit=J").ask(60.0) == NodeAnswer(12000.0, None)


@pytest.mark.parametrize(
    ("result", "code", "words"),
    [
        ([], "stale", "gives 0 series"),
        ([{"value": [1, "1"]}, {"value": [1, "2"]}], "malformed", "gives 2 series, expected 1"),
        ([{"value": [1, "NaN"]}], "malformed", "no number"),
        ([{"value": [1, "-5"]}], "malformed", "no number of 0 or more"),
        ([{"histogram": []}], "malformed", "no number"),
    ],
)
def test_an_answer_that_is_not_one_number_is_no_sample(site: Site, result: list[Any], code: str, words: str) -> None:
    site.answers["/api/v1/query"] = {"data": {"resultType": "vector", "result": result}}
    error = failure(source(f"prometheus+http://{site.place}?query=x"))
    assert error.code == code
    assert words in str(error)


def test_something_else_than_json_is_malformed(site: Site) -> None:
    site.answers["/api/v1/query"] = "<html>login</html>"
    assert failure(source(f"prometheus+http://{site.place}?query=x")).code == "malformed"


DCMI = """cat <<'END'

    Instantaneous power reading:                   412 Watts
    Minimum during sampling period:                  9 Watts
    Maximum during sampling period:                731 Watts
    Average power reading over sample period:      398 Watts
    IPMI timestamp:                           Sun Nov 22 11:02:11 2026
    Sampling period:                          00000001 Seconds.
    Power reading state is:                   activated

END"""


def test_ipmitool_tells_the_instantaneous_power(tmp_path: Path) -> None:
    path = command(tmp_path, "ipmitool", f'test "$*" = "dcmi power reading" || exit 9\n{DCMI}')
    assert source("ipmi", PATH=path).ask(60.0) == NodeAnswer(None, 412.0)


def test_over_the_network_the_password_travels_in_a_variable(tmp_path: Path) -> None:
    script = f'test "$IPMI_PASSWORD" = hunter2 || exit 9\necho "$*" > {tmp_path}/arguments\n{DCMI}'
    path = command(tmp_path, "ipmitool", script)
    assert source("ipmi://bmc7", PATH=path, **CREDENTIALS).ask(60.0) == NodeAnswer(None, 412.0)
    assert (tmp_path / "arguments").read_text() == "-I lanplus -H bmc7 -U reader -E dcmi power reading\n"


def test_over_the_network_ipmi_needs_credentials() -> None:
    with pytest.raises(SourceError, match="needs CARBON_PLUGIN_NODE_METER_USER"):
        source("ipmi://bmc7")


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        ("echo 'Could not open device at /dev/ipmi0: Permission denied' >&2; exit 1", "permission", "ends with 1"),
        ("echo 'DCMI request failed' >&2; exit 1", "error", "DCMI request failed"),
        ("echo hello", "malformed", "no instantaneous power reading"),
        (DCMI.replace("activated", "deactivated"), "not_supported", "deactivated"),
    ],
)
def test_a_command_that_fails_is_a_reason(tmp_path: Path, script: str, code: str, words: str) -> None:
    error = failure(source("ipmi", PATH=command(tmp_path, "ipmitool", script)))
    assert error.code == code
    assert words in str(error)


def test_a_command_that_hangs_is_left_at_the_deadline(tmp_path: Path) -> None:
    error = failure(source("ipmi", PATH=command(tmp_path, "ipmitool", "exec sleep 300")), deadline_s=0.2)
    assert (error.code, "no answer within 0.2 s" in str(error)) == ("unreachable", True)


def test_a_command_that_is_not_installed_is_a_reason(tmp_path: Path) -> None:
    error = failure(source("ipmi", PATH=str(tmp_path)))
    assert error.code == "not_supported"
    assert str(error) == "the command ipmitool is not installed"


NODE = (
    "NodeName=n7 Arch=x86_64 CPUAlloc=96 CurrentWatts={watts} LowestJoules=12 ConsumedJoules={joules} ExtSensorsWatts=0"
)


@pytest.mark.parametrize(
    ("watts", "joules", "answer"),
    [("2410", "88123456", NodeAnswer(88123456.0, 2410.0)), ("2410", "n/s", NodeAnswer(None, 2410.0))],
)
def test_slurm_tells_power_and_counter_of_this_node(
    tmp_path: Path, watts: str, joules: str, answer: NodeAnswer
) -> None:
    script = f'test "$*" = "--oneliner show node n7" || exit 9\necho "{NODE.format(watts=watts, joules=joules)}"'
    path = command(tmp_path, "scontrol", script)
    assert source("slurm", PATH=path, SLURMD_NODENAME="n7").ask(60.0) == answer


def test_slurm_without_energy_accounting_writes_0_which_is_no_power(tmp_path: Path) -> None:
    path = command(tmp_path, "scontrol", f'echo "{NODE.format(watts=0, joules=0)}"')
    error = failure(source("slurm", PATH=path, SLURMD_NODENAME="n7"))
    assert error.code == "not_supported"
    assert "no energy accounting for n7" in str(error)


def test_pm_counters_tell_energy_and_power(tmp_path: Path) -> None:
    (tmp_path / "energy").write_text("55172033 J 1795345331123456 us\n")
    (tmp_path / "power").write_text("1893 W 1795345331123456 us\n")
    assert source(f"pm_counters://{tmp_path}").ask(60.0) == NodeAnswer(55172033.0, 1893.0)
    (tmp_path / "energy").write_text("\n")
    assert failure(source(f"pm_counters://{tmp_path}")).code == "malformed"
    assert failure(source(f"pm_counters://{tmp_path}/elsewhere")).code == "not_supported"


def test_the_last_complete_row_of_a_growing_csv_counts(tmp_path: Path) -> None:
    file, now = tmp_path / "power.csv", time.time()
    file.write_text(f"time,pdu,node_w\n{now - 9},1,100\n{now - 4},1,250.5\n{now},1,3")
    assert source(f"csv://{file}?column=node_w").ask(60.0) == NodeAnswer(None, 250.5)


def test_a_csv_may_have_iso_moments_and_joules(tmp_path: Path) -> None:
    file = tmp_path / "energy.csv"
    moment = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
    file.write_text(f"at,node_j\n{moment},4000\n")
    assert source(f"csv://{file}?column=node_j&time=at&unit=J").ask(60.0) == NodeAnswer(4000.0, None)


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        ("time,node_w\n", "stale", "no row yet"),
        ("time,node_w\n1000,5\n", "stale", "s old"),
        ("time,other_w\n{now},5\n", "malformed", "no column 'node_w'"),
        ("time,node_w\n{now},many\n", "malformed", "no number and moment"),
        ("time,node_w,node_w\n{now},5,900\n", "malformed", "2 columns are named 'node_w'"),
    ],
)
def test_a_csv_that_says_nothing_about_now_is_a_reason(tmp_path: Path, content: str, code: str, words: str) -> None:
    file = tmp_path / "power.csv"
    file.write_text(content.format(now=time.time()))
    error = failure(source(f"csv://{file}?column=node_w"))
    assert error.code == code
    assert words in str(error)


def test_a_csv_that_is_not_there_is_a_reason(tmp_path: Path) -> None:
    assert failure(source(f"csv://{tmp_path}/none.csv?column=node_w")).code == "not_supported"


@pytest.mark.parametrize("text", ["ipmi", "slurm", "pm_counters", "redfish://bmc7", "prometheus://host?query=x"])
def test_what_a_source_needs_can_be_loaded_before_it_is_opened(text: str) -> None:
    load_source(parse_address(text))
