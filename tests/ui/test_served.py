"""How the page is served, and what it says in which language, without a browser."""

import ast
import importlib.util
import inspect
import json
import os
import re
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

import app
from labkit.errors import LabError
from labkit.evaluation.metrics import METRICS
from labkit.paths import demo_folder
from labkit.reporting.metrics import COSTS
from labkit.reporting.stage_section import stage_figures
from labkit.runs.arguments import parse_run_arguments
from labkit.stages import STAGES
from labkit.ui import chinese, served, shell
from labkit.ui.chinese_messages import MESSAGES
from labkit.ui.chinese_settings import SETTINGS
from labkit.ui.lab import Lab
from labkit.ui.proxies import no_proxies
from labkit.ui.shell import translate_message
from labkit.ui.stubs import no_gradio_stub_files
from labkit.viewers.adapters import viewer_component

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def client(tmp_path) -> TestClient:
    """Our middleware and our routes around a page, and an echo of what it is asked."""

    async def echo(request: Request) -> PlainTextResponse:
        return PlainTextResponse(await request.body())

    routes = [
        *served.report_routes(Lab(tmp_path, demo_folder())),
        Route("/", lambda request: HTMLResponse("<html><head><title>x</title></head></html>")),
        Route("/ask", echo, methods=["POST"]),
    ]
    return TestClient(Starlette(routes=routes, middleware=[Middleware(served.RequestGuard)]))


def test_our_script_is_the_first_of_the_page(client):
    page = client.get("/").text
    assert page.index("<head><script>") < page.index("labkit-language") < page.index("<title>")
    assert client.get("/").headers["content-length"] == str(len(page.encode()))


def test_a_report_is_a_page_that_runs_its_own_scripts_alone(client):
    answer = client.get("/report/demo")
    policy = answer.headers["content-security-policy"]
    assert answer.status_code == 200 and "default-src 'none'" in policy and "sandbox allow-scripts" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]
    assert len(re.findall("sha256-", policy)) == 2 and answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["nope", "..%2f..%2fetc%2fpasswd", "%00", "demo%2f..", "x" * 3000])
def test_no_other_name_leads_to_a_report(client, name):
    answer = client.get(f"/report/{name}")
    assert answer.status_code == 404 and "root:" not in answer.text


def test_half_a_character_is_refused_in_words(client):
    good = json.dumps({"data": ["\U0001f600 汤", None, 1.5]})
    assert client.post("/ask", content=good).text == good
    for bad in ('{"data": ["\\ud83d"]}', '{"\\udc00": 1}', b'{"data": "\xed\xa0\xbd"}'):
        answer = client.post("/ask", content=bad, headers={"content-type": "application/json"})
        assert answer.status_code == 422 and "a broken character" in answer.json()["error"]


def test_what_is_too_long_or_too_deep_is_refused_in_words(client):
    answer = client.post("/ask", content=json.dumps("x" * served.LARGEST))
    assert answer.status_code == 422 and "too long" in answer.json()["detail"]
    assert "nested too deeply" in served.rejection_reason(b"[" * 200_000)
    assert served.rejection_reason(b"no json") == served.rejection_reason(b"") == ""


def test_proxies_are_forgotten_and_come_back(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    with no_proxies():
        assert not {"http_proxy", "ALL_PROXY"} & set(os.environ)
    assert os.environ["http_proxy"] == "http://127.0.0.1:9" and os.environ["ALL_PROXY"] == "socks5://127.0.0.1:9"


def test_gradio_writes_no_stubs_while_it_is_imported(tmp_path, monkeypatch):
    """Of a component whose source is a file of Gradio's; afterwards, and of other classes, files are found again."""
    (tmp_path / "made.py").write_text("import gradio as gr\n\n\nclass Box(gr.Textbox):\n    EVENTS = []\n")
    for package, written in (("gradio.made", False), ("made", True)):
        spec = importlib.util.spec_from_file_location(package, tmp_path / "made.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, package, module)
        with no_gradio_stub_files():
            spec.loader.exec_module(module)
        assert (tmp_path / "made.pyi").exists() == written
    assert inspect.getfile(served.gr.Textbox).endswith("textbox.py")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "TAKEN"], "Port TAKEN is in use, or may not be used. Choose another one: --port"),
        (["--port", "99999"], "a port is a number from 1 to 65535"),
        (["--runs", "FILE/runs"], "cannot be used to store votes"),
    ],
)
def test_what_hinders_the_app_is_a_line(tmp_path, capsys, monkeypatch, arguments, words):
    (tmp_path / "file").write_text("no folder")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        put = {"TAKEN": str(taken.getsockname()[1]), "FILE": str(tmp_path / "file")}
        for name, value in put.items():
            arguments, words = [one.replace(name, value) for one in arguments], words.replace(name, value)
        monkeypatch.setattr(sys, "argv", ["app.py", "--runs", str(tmp_path / "runs"), *arguments])
        code: Any = None
        try:
            code = app.main()
        except SystemExit as ended:  # argparse's way out
            code = ended.code
    assert code == 2 and words in capsys.readouterr().err


def templates() -> set[str]:
    """Every text of labkit, with {} for what is put in."""
    found = set()
    for path in (ROOT / "labkit").rglob("*.py"):
        if path.name in ("chinese.py", "chinese_messages.py", "words.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
                found.add("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def test_every_message_that_is_translated_is_one_that_labkit_says():
    assert sorted(set(MESSAGES | SETTINGS) - templates()) == []


def test_a_translation_holds_what_its_message_holds():
    for template, translated in (MESSAGES | SETTINGS).items():
        filled = template.replace("{}", "{}", 1)
        values = [f"<{number}>" for number in range(template.count("{}"))]
        for value in values:
            filled = filled.replace("{}", value, 1)
        assert chinese.translate_message_to_chinese(filled) == translated.format(*values)
        assert all(value in translated.format(*values) for value in values), template


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--annotation.judge Principles --annotation.format ratings", "--annotation: Principles 在两个回答之间选择"),
        ("--annotation.judge Principles --annotation.lazy-choice longer", "--annotation: other_annotators、"),
        ("--annotation.judge Principles --annotation.judge.group kind", "没有组 'kind'；可选的组有 helpful"),
        ("--annotation.format ratings --annotation.position-bias 0.5", "每个回答单独评分"),
        ("--plan pretrain,sft,reward,grpo --grpo.max-kl 0.1", "--grpo: GRPO：max_kl 会提前结束"),
        ("--plan pretrain,sft,judge,dpo@judge", "dpo 不能接在 judge 之后：它的模型比较回答"),
        ("--model.heads 3 --model.key-value-heads 2", "--model: 3 个查询头不能平分 2 个键头"),
    ],
)
def test_what_settings_of_alignment_are_refused_for_is_said_in_chinese(flags, said):
    with pytest.raises(LabError) as refused:
        parse_run_arguments(["--preset", "smoke", *flags.split()])
    assert said in chinese.translate_message_to_chinese(str(refused.value))


def test_a_message_in_a_message_and_one_that_nobody_knows():
    whole = "Its process ended early: mine is running. Stop it first."
    assert chinese.translate_message_to_chinese(whole) == "进程提前结束：mine 正在运行。请先停止。"
    many = "Strategy 1, beam beams=99 is 99 texts at once; the limit is 32. Use a smaller beams=."
    assert (
        chinese.translate_message_to_chinese(many)
        == "Strategy 1, beam beams=99：同时 99 篇文本；上限为 32 篇。请用更小的 beams=。"
    )
    failed = "Its process ended early: The text cannot give a vocabulary of 9: its BPE merges end at "
    failed += "7. Ask for at most 7, leave the size unset, or give more text."
    assert chinese.translate_message_to_chinese(failed).startswith("进程提前结束：这些文本给不出 9 个词元的词表")
    unknown = "There is no option --model.wdith. Did you mean --model.width?"
    assert chinese.translate_message_to_chinese(unknown) == "没有选项 --model.wdith。您是否想写 --model.width？"
    assert (
        chinese.translate_message_to_chinese("--model.width must be a whole number, not 'x'.")
        == "--model.width 须为整数，不能是 'x'。"
    )
    weights = "m is damaged, or of a different model than config.json describes: it has no head.weight."
    assert (
        chinese.translate_message_to_chinese(weights)
        == "m 已损坏，或属于与 config.json 所述不同的模型：模型没有 head.weight。"
    )
    beyond = "--dpo.beta must be finite and above 0, not inf."
    assert chinese.translate_message_to_chinese(beyond) == "--dpo.beta 须为有限数且大于 0，不能是 inf。"
    assert chinese.translate_message_to_chinese("All of it is new.") == "英文原文：All of it is new."


def test_every_name_that_a_page_shows_is_translated():
    known = [
        *METRICS.values(),
        *COSTS.values(),
        *(one for stage in STAGES.values() for one in stage.metric_specs.values()),
    ]
    plain = ("share", "score", "number", "count", "megabytes", "")
    shown = {one.label for one in known} | {one.unit for one in known if one.unit not in plain}
    record = {key: 0.5 for stage in STAGES.values() for curve in stage.curves for key in curve.metric_names}
    records = [{"step": 1, "loss": 1.0, "lr": 0.1, "reward": 1.0, "gold": gold, **record} for gold in (0.0, 0.5)]
    for stage in STAGES:
        for some in (records, records[:1]):
            for heading, figure in stage_figures(stage, {"untrained_loss": 1.0}, some).values():
                axes = [axis.title.text or "step" for axis in (*figure.select_xaxes(), *figure.select_yaxes())]
                shown |= {heading, *axes, *(line.name for line in figure.data)}
    assert [text for text in sorted(shown) if chinese.label_in_chinese(text) == text] == []


def test_a_name_with_its_unit_or_its_part():
    assert chinese.label_in_chinese("validation loss (nats per token)") == "验证损失（纳特/词元）"
    assert chinese.label_in_chinese("accuracy: where") == "准确率：where"
    assert chinese.label_in_chinese("right answers, before this stage") == "正确的回答（本阶段之前）"
    assert chinese.label_in_chinese("dpo") == "dpo"


class Asking:
    """A request, as Gradio and FastAPI show it."""

    def __init__(self, cookie: str = "", accept: str = ""):
        self.cookies: dict[str, Any] = {shell.LANGUAGE: cookie} if cookie else {}
        self.headers = {"accept-language": accept} if accept else {}


@pytest.mark.parametrize(
    ("cookie", "accept", "speaks"),
    [
        ("", "", False),
        ("", "zh-TW,en;q=0.5", True),
        ("", "de,zh;q=0.5", False),
        ("zh", "en", True),
        ("en", "zh", False),
    ],
)
def test_the_language_that_was_chosen_or_else_the_browsers(cookie, accept, speaks):
    asking: Any = Asking(cookie, accept)
    token = shell.LocalContext.request.set(asking)
    try:
        assert shell.is_page_in_chinese() is speaks
        assert shell.translate_message("mine is deleted.") == ("mine 已删除。" if speaks else "mine is deleted.")
        assert shell.translate_label("Failed") == ("失败" if speaks else "Failed")
        assert (
            shell.show_advice_or_hide_update("mine is deleted.")["elem_classes"] == "labkit-advice"
            and not shell.show_advice_or_hide_update("")["visible"]
        )
        assert shell.show_error_update("x")["elem_classes"] == "labkit-wrong"
    finally:
        shell.LocalContext.request.reset(token)
    assert not shell.is_page_in_chinese()  # outside of a page


def test_a_viewers_errors_are_in_the_language_of_the_page():
    view: Any = viewer_component(
        "labkit-texts",
        handle_request=lambda q: {"error": "mine is deleted."} if q else {"a": 1},
        translate_error=translate_message,
    )
    asking: Any = Asking("zh")
    token = shell.LocalContext.request.set(asking)
    try:
        assert view.answer({"what": "step"}) == {"error": "mine 已删除。"} and view.answer({}) == {"a": 1}
    finally:
        shell.LocalContext.request.reset(token)


def test_a_message_does_not_say_where_on_this_machine_things_lie():
    for text, shown in [
        ("/home/ada/lab/runs/mine is in use", "runs/mine is in use"),
        ("[Errno 28] No space left: '/tmp/a/b/c.json'", "[Errno 28] No space left: 'b/c.json'"),
        ("runs/mine and ./a/b/c and 3/4 and https://a.org/b/c", "runs/mine and ./a/b/c and 3/4 and https://a.org/b/c"),
    ]:
        assert shell.translate_message(text) == shell.show_error_update(text)["value"] == shown
