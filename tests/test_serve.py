"""The REST interface: a real client against a real server, and ``tanl serve`` as a process."""

import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from serving import CORPUS, LABELS, colour_guard, parts, picture, served

import tanl
from conftest import with_signals
from tanl.cli.main import main
from tanl.serve.service import Service

pytest.importorskip("fastapi", reason="needs FastAPI: pip install 'tanl[serve]'")
pytest.importorskip("uvicorn", reason="needs uvicorn: pip install 'tanl[serve]'")
httpx = pytest.importorskip("httpx2", reason="needs an HTTP client: pip install httpx2")

from tanl.serve.api import make_app  # noqa: E402, the packages above come first
from tanl.serve.server import bound, is_loopback, url_of  # noqa: E402


@pytest.fixture
def service(tmp_path):
    return Service(colour_guard(tmp_path / "cache"), tmp_path / "guard", max_images=40, max_pixels=10_000)


@pytest.fixture
def client(service):
    app = make_app(service, max_body=200_000, hosts=["tanl.example"])

    @app.get("/broken")
    def broken():
        raise RuntimeError("a bug")

    with served(app) as url, httpx.Client(base_url=url, timeout=30) as made:
        yield made


def refused(answer, status, *told):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert [*answer.json()] == ["error"]
    assert "\n" not in answer.json()["error"]
    for each in told:
        assert each in answer.json()["error"]


def test_judge_learns_and_score_does_not(client, service):
    sent = parts("red", "blue", "green")
    scored = client.post("/score", files=sent).json()
    assert client.get("/health").json()["stream"]["images"] == 0
    judged = client.post("/judge", files=sent).json()
    assert client.get("/health").json()["stream"]["images"] == 3
    assert [each["name"] for each in judged["results"]] == ["red-0.png", "blue-1.png", "green-2.png"]
    assert [each["is_ood"] for each in judged["results"]] == [False, True, False]
    assert [each["label"] for each in judged["results"]][::2] == ["red", "green"]
    assert judged["results"][1]["evidence"][0]["label"] == "blue"
    assert [each["ood_score"] for each in scored["results"]] == [
        each["ood_score"] for each in judged["results"]
    ]
    assert client.post("/judge", files=sent, data={"source": "camera 1"}).status_code == 200


def test_calibrate_labels_and_health(client):
    known = parts(*["red", "green"] * 12)
    said = client.post("/calibrate", files=known, data={"tpr": "0.9"}).json()
    assert (said["tpr"], said["count"], said["unreadable"]) == (0.9, 24, [])
    assert client.get("/health").json()["threshold"] == said["threshold"]
    assert client.get("/labels").json()["labels"] == LABELS
    assert client.put("/labels", json={"labels": ["red", "blue"]}).json()["labels"] == ["red", "blue"]
    said = client.post("/labels", json={"add": ["green"], "remove": ["blue"]}).json()
    assert said["labels"] == ["red", "green"]
    assert "calibrate again" in said["note"]
    assert client.delete("/calibrate").status_code == 200
    assert client.get("/health").json()["calibrated_tpr"] is None


def test_the_interface_is_described(client):
    described = client.get("/openapi.json").json()
    assert {*described["paths"]} >= {"/judge", "/score", "/calibrate", "/labels", "/health"}
    refused(client.get("/docs"), 404)  # its page would load scripts from elsewhere


def test_mistakes_are_told_and_change_nothing(client, service):
    one = parts("red")
    for answer, status, told in (
        (client.post("/judge"), 422, "images: Field required; send multipart/form-data"),
        (client.post("/judge", data={"images": "/etc/passwd"}), 422, "send multipart/form-data"),
        (client.post("/judge", files=[("images", ("a.png", b"x"))]), 422, "no image can be used: a.png"),
        (client.post("/judge", files=parts(*["red"] * 41)), 422, "41 images are more than the 40"),
        (
            client.post("/judge", content=b"x", headers={"content-type": "multipart/form-data"}),
            400,
            "boundary",
        ),
        (client.post("/judge", files=one, data={"source": "x" * 201}), 422, "source: "),
        (client.post("/calibrate", files=one), 422, "1 ID scores are too few for tpr = 0.95: 19 are needed"),
        (
            client.post("/calibrate", files=one, data={"tpr": "1"}),
            422,
            "tpr: Input should be less than 1, not '1'",
        ),
        (
            client.put("/labels", json={"labels": "red"}),
            422,
            "labels: Input should be a valid list, not 'red'",
        ),
        (client.put("/labels", json={"labels": ["red", "red"]}), 422, "'red'"),
        (client.put("/labels", json={"label": ["red"]}), 422, "label: Extra inputs are not permitted"),
        (
            client.put("/labels", content=b"{", headers={"content-type": "application/json"}),
            422,
            "JSON decode",
        ),
        (
            client.put("/labels", content=b"{}", headers={"content-type": "text/plain"}),
            422,
            "send JSON, with the header content-type: application/json",
        ),
        (client.post("/labels", json={"remove": ["dog"]}), 422, "'dog' is not among the labels"),
        (client.get("/judge"), 405, "GET /judge is none of /judge /score"),
        (client.get("/nothing"), 404, "GET /nothing is none of /judge /score"),
    ):
        refused(answer, status, told)
    assert service.health()["stream"]["images"] == 0
    assert service.labels()["labels"] == LABELS


def test_an_error_inside_is_told_without_its_traceback(client):
    refused(client.get("/broken"), 500, "an error inside tanl, a RuntimeError; the service's log")


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_the_limit_is_refused(client, service, declared):
    boundary = b"--x\r\ncontent-disposition: form-data; name=images; filename=a.png\r\n\r\n"
    body = boundary + bytes(300_000) + b"\r\n--x--\r\n"

    def pieces():
        for place in range(0, len(body), 10_000):
            yield body[place : place + 10_000]

    content = body if declared else pieces()
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = client.post("/judge", content=content, headers=headers)
    refused(answer, 413, "more than the 200000 bytes of one request", "--max-body")
    answer = client.put("/labels", content=pieces(), headers={"content-type": "application/json"})
    refused(answer, 413)
    assert service.health()["stream"]["images"] == 0


def test_an_image_over_the_limit_is_refused_by_its_size_alone(client):
    large = picture("red", size=101)
    refused(
        client.post("/judge", files=[("images", ("a.png", large))]), 422, "101 x 101 pixels are more than"
    )


def test_nothing_of_a_request_is_opened(client, tmp_path, monkeypatch):
    """Names that are paths, addresses, or climb; and a link to a file that is there."""
    (tmp_path / "secret.png").write_bytes(picture("red"))
    monkeypatch.chdir(tmp_path)
    names = [
        "secret.png",
        str(tmp_path / "secret.png"),
        "../secret.png",
        "http://127.0.0.1:1/a.png",
        "file:///a.png",
    ]
    for name in names:
        refused(client.post("/judge", files=[("images", (name, b"not an image"))]), 422, "it is not an image")
        said = client.post("/judge", files=[("images", (name, picture("blue")))]).json()["results"][0]
        assert said["evidence"][0]["label"] == "blue"  # what was sent, not what lies there
    for path in ("/secret.png", "/../secret.png", "/judge/../../secret.png", f"/{tmp_path}/secret.png"):
        refused(client.get(path), 404)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"host": "evil.example:80"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "["}, 403),
        ({"host": "localhost"}, 200),
        ({"host": "tanl.example:99"}, 200),
        ({"host": "[::1]:80"}, 200),
        ({"host": "192.0.2.1"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "localhost:7", "origin": "http://localhost:8"}, 403),
        ({"host": "localhost:7", "origin": "http://localhost:7"}, 200),
    ],
)
def test_pages_of_others_in_a_browser_may_not_ask(client, service, headers, status):
    answer = client.post("/judge", files=parts("red"), headers=headers)
    assert answer.status_code == status, answer.text
    if status == 403:
        refused(answer, 403)
    assert service.health()["stream"]["images"] == (status == 200)
    assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_requests_side_by_side_lose_nothing(client, service):
    def ask(number):
        if number % 5 == 0:
            return client.put(
                "/labels", json={"labels": [*LABELS, "purple"][: 2 + number % 2]}
            ).status_code, 0
        path = "/judge" if number % 2 else "/score"
        answer = client.post(path, files=parts("red", "blue", seed=number))
        assert len(answer.json()["results"]) == 2
        client.get("/health").raise_for_status()
        return answer.status_code, 2 * (number % 2)

    with ThreadPoolExecutor(8) as pool:
        said = [*pool.map(ask, range(60))]
    assert {status for status, _ in said} == {200}
    assert service.health()["stream"]["images"] == sum(judged for _, judged in said)


def test_the_guard_is_kept_when_the_server_ends(service, tmp_path):
    with served(make_app(service)) as url:
        httpx.post(f"{url}/judge", files=parts("red", "blue")).raise_for_status()
        assert not (tmp_path / "guard").exists()
    again = tanl.Guard.load(tmp_path / "guard", backbone=service.guard.backbone)
    assert again.detector.memory_report().images == 2


def test_addresses_of_this_machine():
    assert is_loopback("127.0.0.1")
    assert is_loopback("127.9.9.9")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("192.0.2.1")
    with bound("127.0.0.1", 0) as listening:
        assert url_of(listening) == f"http://127.0.0.1:{listening.getsockname()[1]}"


# --- the process --------------------------------------------------------------------------------------------

BASE = [
    "serve",
    "--labels",
    "labels.txt",
    "--corpus",
    "corpus.txt",
    "--no-page",
    "--port",
    "0",
    "--guard",
    "guard",
]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TANL_CACHE", str(tmp_path / "cache"))
    Path("labels.txt").write_text("\n".join(LABELS))
    Path("corpus.txt").write_text("\n".join(CORPUS))
    return tmp_path


def start(*options):
    with Path("out.txt").open("w") as out, Path("err.txt").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "tanl", *BASE, *options], stdout=out, stderr=err, preexec_fn=with_signals
        )
    deadline = time.monotonic() + 120
    while "; Ctrl-C" not in (said := Path("out.txt").read_text()):
        assert process.poll() is None, Path("err.txt").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process, said.partition(" at ")[2].partition(";")[0]


def test_a_service_that_nobody_asked_keeps_nothing_and_says_so(workplace):
    process, _ = start()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert Path("err.txt").read_text().endswith("tanl: ended; no guard was kept, as nothing changed\n")
    assert not Path("guard").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_service_goes_on_where_it_was(workplace, number):
    process, url = start()
    try:
        assert url.startswith("http://127.0.0.1:")
        httpx.post(f"{url}/judge", files=parts("red", "blue"), timeout=60).raise_for_status()
        httpx.put(f"{url}/labels", json={"labels": ["red", "green", "cat"]}, timeout=60).raise_for_status()
        process.send_signal(number)
        assert process.wait(60) == 0
        assert Path("err.txt").read_text().endswith("tanl: ended; the guard is kept in guard\n")
        process, url = start()
        told = Path("err.txt").read_text()
        assert "going on with the guard in guard" in told
        assert "2 images seen" in told
        assert "leave --labels out" in told
        assert httpx.get(f"{url}/labels").json()["labels"] == ["red", "green", "cat"]
    finally:
        process.kill()
        process.wait()


def one_line(capsys, told):
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1), err
    assert told in err


def test_mistakes_are_told_before_anything_is_loaded(workplace, monkeypatch, capsys):
    monkeypatch.setattr("tanl.backbones.load_backbone", lambda *_, **__: pytest.fail("loaded"))
    assert main([*BASE, "--host", "0.0.0.0"]) == 2
    one_line(
        capsys, "--host 0.0.0.0 lets others reach the service, which has no password: add --allow-remote"
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main([*BASE, "--port", str(taken.getsockname()[1])]) == 2
    one_line(capsys, "already in use")
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main([argument for argument in BASE if argument != "--no-page"]) == 2
    one_line(capsys, "the page needs Gradio: pip install 'tanl[serve]', or serve without it: --no-page")
    assert main(["serve", "--no-page"]) == 2
    one_line(capsys, "no labels: give --labels FILE")
    with pytest.raises(SystemExit):
        main([*BASE, "--port", "70000"])
    one_line(capsys, "'70000' is not a port, from 0 to 65535")


def test_others_are_let_in_by_an_option_and_with_a_warning(workplace, monkeypatch, capsys):
    monkeypatch.setattr("tanl.cli.guards.open_guard", lambda _: pytest.fail("far enough"))
    with pytest.raises(pytest.fail.Exception, match="far enough"):
        main([*BASE, "--host", "0.0.0.0", "--allow-remote"])
    one_line(capsys, "tanl: warning: listening on 0.0.0.0: whoever reaches this machine can judge, teach")


@pytest.mark.parametrize("package", ["fastapi", "uvicorn"])
def test_without_the_packages_the_extra_is_named(workplace, package):
    code = f"import sys; sys.modules[{package!r}] = None; from tanl.cli.main import main; sys.exit(main({BASE!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'tanl[serve]'" in done.stderr
    assert done.stderr.count("\n") == 1
