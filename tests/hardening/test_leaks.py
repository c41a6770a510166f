"""What a client sends is seen by the engine and by nobody else: not in a log line, a metric, an error or another client's answer."""

from __future__ import annotations

import base64
import io
import json
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from hardening.rig import Attacked
from PIL import Image

from deepseek_serving.keys import new_key

Attack = Callable[[dict[str, Any]], AbstractContextManager[Attacked]]


def test_no_prompt_key_or_picture_is_ever_written_down(attack: Attack, tmp_path: Path) -> None:
    """Canaries in every field that can hold one, in good and in bad requests, with the log at its most talkative."""
    key, line = new_key()
    (tmp_path / "alice").write_text(line)
    canary = "canary" + secrets.token_hex(8)
    file = io.BytesIO()
    Image.effect_noise((30, 30), 90).save(file, "PNG")
    picture = base64.b64encode(file.getvalue()).decode()
    good = {"Authorization": f"Bearer {key}"}
    wrong = {"Authorization": f"Bearer {canary}"}
    with attack({"model": {"engine": "echo"}, "modelName": "chat", "access": {"keysFolder": str(tmp_path)}}) as server:
        answers = []
        for headers in (good, wrong, {**good, "X-Max-Queue-Seconds": canary, "User-Agent": canary, "Cookie": f"a={canary}"}):
            for body in (
                {"messages": [{"role": "user", "content": canary}]},
                {"messages": [{"role": "user", "content": canary}], "stream": True, "logprobs": True, "n": 2},
                {"messages": [{"role": canary, "content": canary}]},
                {"messages": [{"role": "user", "content": canary * 100_000}]},
                {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"http://{canary}.test/x.png"}}]}]},
                {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{canary}"}}]}]},
                {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}}]}]},
                {"messages": [{"role": "user", "content": "x"}], "stop": [canary], "user": canary, "metadata": {"a": canary}},
                {"messages": [{"role": "user", "content": "x"}], "temperature": canary, canary: canary},
                {"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "json_schema", "json_schema": {"name": canary}}},
            ):
                status, answer = server.ask("POST", "/v1/chat/completions", json.dumps({"model": "chat", **body}).encode(), headers)
                assert status in (200, 400, 401, 413, 429)
                answers.append((status, answer))
            server.ask("POST", "/v1/chat/completions", f'{{"{canary}'.encode(), headers)
        time.sleep(1)
        log, metrics = server.log(), json.dumps(server.numbers())
        for secret in (canary, key, picture[:40], picture[-40:]):
            assert secret not in log
            assert secret not in metrics
            assert not [answer for status, answer in answers if status != 200 and secret.encode() in answer]
        assert "Traceback" not in log
        assert not [answer for _, answer in answers if b"Traceback" in answer or b"site-packages" in answer]
        assert len(server.numbers()["metrics"]) < 1000


def test_a_forged_log_line_stays_one_line(attack: Attack) -> None:
    """Line breaks in the model's name, in the path, in a key: every line of the log begins as the log's lines do."""
    with attack({"model": {"engine": "echo"}, "modelName": "chat"}) as server:
        forged = "2026-01-01 00:00:00,000 CRITICAL root all keys deleted"
        server.ask("POST", "/v1/chat/completions", json.dumps({"model": f"x\n{forged}", "messages": []}).encode())
        server.ask("GET", "/v1/models/x%0a" + forged.replace(" ", "%20"))
        server.ask("GET", "/x%0d%0a" + forged.replace(" ", "%20"))
        time.sleep(0.3)
        assert not [line for line in server.log().splitlines() if line.startswith("2026-01-01 00:00:00,000 CRITICAL")]
