"""HttpReward and VlmJudge against a local server that is well, slow, down, or talks nonsense."""

import copy
import re
import socket
import threading
import time
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
from scorer import rated, scored, server

import rewards
from steer import Condition


def pictures(n, c=3):
    x = torch.rand(n, c, 6, 5, generator=torch.Generator().manual_seed(0))
    return (x * 255).round() / 255


def brightness(x):
    return x.double().flatten(1).mean(1)


def reward(url, **given):
    return rewards.HttpReward(url, **{"batch": 2, "backoff": 0.01, "timeout": 5.0, **given})


def refusal(call, kind):
    """The one line with which a call ends."""
    with pytest.raises(kind) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


# --- when all is well ---------------------------------------------------------------------------
@pytest.mark.parametrize("channels", [1, 3])
def test_scores_are_the_servers_in_order_by_batches_at_once(channels):
    enough = threading.Barrier(3, timeout=5)

    def answer(request):
        enough.wait()  # three requests are under way together
        return scored(request)

    x = pictures(6, channels)
    prompts = ["a", "bb", "a", "cccc", "", "ff"]
    with server(answer) as (url, log):
        found = reward(url, concurrent=3)(x.double(), prompts)
    expected = brightness(x) + torch.tensor([len(p) / 1000 for p in prompts], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert sorted(len(request["images"]) for request in log.requests) == [2, 2, 2]
    assert log.most_at_once == 3


def test_columns_of_a_condition_are_sent_and_tensors_are_not():
    cond = Condition(texts=["a", "b"], tag=["counting", "colors"], pooled=torch.zeros(2, 4))
    with server(scored) as (url, log):
        reward(url)(pictures(2), cond)
        reward(url)(pictures(2))
    first, second = log.requests
    assert {k: v for k, v in first.items() if k != "images"} == {
        "prompt": ["a", "b"],
        "tag": ["counting", "colors"],
    }
    assert second.keys() == {"images"}


def test_a_column_that_would_hide_the_pictures_is_refused():
    with server(scored) as (url, log):
        cond = Condition(texts=["a"], images=["b"])
        assert "called images hides" in refusal(lambda: reward(url)(pictures(1), cond), ValueError)
    assert not log.requests


def test_equal_pictures_of_equal_prompts_are_asked_once():
    x = pictures(1).expand(5, -1, -1, -1)
    with server(scored) as (url, log):
        found = reward(url)(x, ["a", "a", "b", "a", "a"])
    assert sum(len(request["images"]) for request in log.requests) == 2
    assert found[0] == found[1] == found[3]
    assert found[2] == pytest.approx(float(found[0]))


def test_a_key_is_taken_from_the_environment_and_never_elsewhere(monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    with server(scored) as (url, log):
        reward(url)(pictures(1))
        asked = reward(url, key_variable="MY_KEY")
        asked(pictures(1))
    assert "Authorization" not in log.headers[0]
    assert log.headers[1]["Authorization"] == "Bearer secret"
    assert "secret" not in repr(asked)


# --- kept scores --------------------------------------------------------------------------------
def test_scores_are_kept_for_later_runs_by_picture_prompt_and_name(tmp_path):
    x = pictures(4)
    with server(scored) as (url, log):
        first = reward(url, cache=tmp_path)(x, ["a"] * 4)
        again = reward(url, cache=tmp_path)
        torch.testing.assert_close(again(x.flip(0), ["a"] * 4), first.flip(0), rtol=0, atol=0)
        torch.testing.assert_close(copy.deepcopy(again)(x, ["a"] * 4), first, rtol=0, atol=0)
        assert len(log.requests) == 2
        again(x, ["b"] * 4)
        assert len(log.requests) == 4
        reward(url, cache=tmp_path, name="another model")(x, ["a"] * 4)
        assert len(log.requests) == 6


def test_finished_work_is_kept_when_the_server_dies(tmp_path):
    """The fourth request and all after it fail: three batches are there, and the rest is asked."""
    count = iter(range(100))
    x = pictures(10)
    with server(lambda r: scored(r) if next(count) < 3 else (500, "dead")) as (url, log):
        asked = reward(url, cache=tmp_path, concurrent=1, retries=1)
        assert re.search(
            r"answers 500 after 2 attempts: 'dead' \(finished sc",
            refusal(lambda: asked(x), ConnectionError),
        )
        assert len(log.requests) == 5
    with server(scored) as (other, log):
        later = reward(other, cache=tmp_path, concurrent=1)
        later.identity = asked.identity  # the same server at another port
        torch.testing.assert_close(later(x).double(), brightness(x), rtol=1e-6, atol=1e-6)
        assert sum(len(request["images"]) for request in log.requests) == 4


# --- failures -----------------------------------------------------------------------------------
def test_5xx_and_nonsense_are_asked_again_with_growing_pauses():
    answers = [(503, "busy"), (200, "<html>"), (200, {"scores": [1.0]}), (500, ""), None]
    times = []

    def answer(request):
        times.append(time.perf_counter())
        return answers[len(times) - 1] or scored(request)

    x = pictures(2)
    with server(answer) as (url, _):
        found = reward(url, backoff=0.05)(x)
    torch.testing.assert_close(found.double(), brightness(x), rtol=1e-6, atol=1e-6)
    pauses = [after - before for before, after in pairwise(times)]
    assert all(p >= 0.05 * 2**k for k, p in enumerate(pauses))
    assert len(pauses) == 4


def test_the_server_may_say_how_long_to_wait():
    times = []

    def answer(request):
        times.append(time.perf_counter())
        return (429, "slower", {"Retry-After": "1"}) if len(times) == 1 else scored(request)

    with server(answer) as (url, _):
        reward(url, backoff=0.0)(pictures(1))
    assert times[1] - times[0] >= 1


def test_a_server_that_dies_within_an_answer_is_asked_again():
    answers = iter([(None, ""), (None, '{"scores"')])
    x = pictures(2)
    with server(lambda r: next(answers, None) or scored(r)) as (url, log):
        torch.testing.assert_close(reward(url)(x).double(), brightness(x), rtol=1e-6, atol=1e-6)
        assert len(log.requests) == 3
    with server(lambda r: (None, "{")) as (url, _):
        assert re.search(
            r"is down after 1 attempt \(IncompleteRead",
            refusal(lambda: reward(url, retries=0)(x), ConnectionError),
        )


def test_a_refusal_is_not_asked_again():
    with server(lambda r: (401, "no such key")) as (url, log):
        assert "answers 401 after 1 attempt: 'no such" in refusal(
            lambda: reward(url)(pictures(1)), ConnectionError
        )
    assert len(log.requests) == 1


def test_a_slow_server_is_told_apart_from_one_that_is_down():
    gone = threading.Event()

    def answer(request):
        gone.wait(5)
        return scored(request)

    with server(answer) as (url, _):
        asked = reward(url, timeout=0.1, retries=1)
        try:
            assert (
                r"is slow: no whole answer within 0.1 s after 2 attempts: raise timeout="
                in refusal(lambda: asked(pictures(1)), ConnectionError)
            )
        finally:
            gone.set()
    assert re.search(
        r"is down after 2 attempts \(.*refused\): start it",
        refusal(lambda: reward(url, retries=1)(pictures(1)), ConnectionError),
    )


@contextmanager
def dripping(start):
    """A server that sends `start`, then one byte every 20 ms for ever; yields its address."""
    stop = threading.Event()
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(0.05)

    def drip(connection):
        with connection:
            connection.recv(1 << 20)
            connection.sendall(start)
            while not stop.wait(0.02):
                try:
                    connection.sendall(b" ")
                except OSError:
                    return

    def serve():
        while not stop.is_set():
            try:
                connection, _ = listening.accept()
            except TimeoutError:
                continue
            threading.Thread(target=drip, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        stop.set()
        thread.join()
        listening.close()


@pytest.mark.parametrize(
    ("start", "complaint"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", "is slow: no whole answer within 0.3"),
        (b"HTTP/1.1 200 OK\r\nX-Long: ", "is slow: no whole answer within 0.3 s after 1 attempt"),
        (b"HTTP/1.1 400 Bad\r\nContent-Length: 1000\r\n\r\n", "answers 400 after 1 attempt: ''"),
    ],
    ids=["body", "head", "error"],
)
def test_a_server_that_drips_bytes_for_ever_is_cut(start, complaint):
    with dripping(start) as url:
        began = time.perf_counter()
        assert re.search(
            complaint,
            refusal(lambda: reward(url, timeout=0.3, retries=0)(pictures(1)), ConnectionError),
        )
        assert time.perf_counter() - began < 3


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("<html>", "expected JSON, got '<html>'"),
        ([0.5, 0.5], r"expected \{\"scores\""),
        ({"scores": [0.5]}, "expected 2 scores, got 1"),
        ({"scores": [0.5, None]}, "expected a number as a score, got 'None'"),
        ({"scores": [0.5, True]}, "expected a number as a score, got 'True'"),
        ('{"scores": [0.5, NaN]}', "expected a finite score, got nan"),
    ],
)
def test_nonsense_stops_the_run_and_is_quoted(body, complaint):
    with server(lambda r: (200, body)) as (url, log):
        assert re.search(
            f"answers nonsense after 2 attempts: {complaint}",
            refusal(lambda: reward(url, retries=1)(pictures(2)), ValueError),
        )
    assert len(log.requests) == 2


def test_bad_addresses_and_samples_are_refused():
    assert r"url: expected http://... or https://..." in refusal(
        lambda: reward("ftp://x"), ValueError
    )
    assert "decode them first" in refusal(
        lambda: reward("http://127.0.0.1:9")(torch.zeros(2, 5)), ValueError
    )


def test_a_reward_that_fails_stops_others_that_wait():
    """With one request at a time and a long pause, the second batch is never asked."""
    with server(lambda r: (500, "")) as (url, log):
        assert "answers 500" in refusal(
            lambda: reward(url, concurrent=1, retries=0)(pictures(6)), ConnectionError
        )
    assert len(log.requests) == 1


# --- the judge ----------------------------------------------------------------------------------
def judge(url, **given):
    return rewards.VlmJudge(f"{url}/v1/", "tiny-vlm", **{"backoff": 0.01, "timeout": 5.0, **given})


def test_a_judge_is_asked_about_each_picture_with_its_prompt():
    x = pictures(3)
    cond = Condition(texts=["a cup", "a hat", "a cat"], tag=["x", "y", "z"])
    with server(rated) as (url, log):
        found = judge(url, question="{tag}: {prompt}? {low:g} to {high:g}", concurrent=1)(x, cond)
    torch.testing.assert_close(found.double(), 10 * brightness(x), rtol=1e-5, atol=1e-5)
    assert set(log.paths) == {"/v1/chat/completions"}
    asked = [request["messages"][0]["content"][1]["text"] for request in log.requests]
    assert sorted(asked) == ["x: a cup? 0 to 10", "y: a hat? 0 to 10", "z: a cat? 0 to 10"]
    assert log.requests[0]["model"] == "tiny-vlm"
    assert log.requests[0]["temperature"] == 0


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Score: 7", 7.0),
        ("**Score:** 7.5/10", 7.5),
        ("There are 3 cups. SCORE = 2", 2.0),
        ("Score: 1? No. Score: 4 out of 10", 4.0),
        (" 8\n", 8.0),
        ("score: -3", -3.0),
        ("3 cups, 2 hats", None),
        ("Score (0-10): 7", 7.0),
        ("Score: .5", 0.5),
        ("Score: 8,5", None),
        ("Score: 1e1", None),
        ("Score: minus 3", None),
        ("minus 3", None),
        ("I would rather not", None),
        ("", None),
    ],
)
def test_ratings_are_read_from_answers(text, rating):
    from rewards.vlm_judge import rating_of

    assert rating_of(text) == rating


def test_an_answer_without_a_rating_is_asked_again_and_then_quoted():
    says = lambda text: (200, {"choices": [{"message": {"content": text}}]})  # noqa: E731
    answers = iter([says("I cannot see"), says("Score: 11"), says("Score: 3")])
    with server(lambda r: next(answers)) as (url, _):
        assert judge(url)(pictures(1), ["a cup"]).tolist() == [3.0]
    with server(lambda r: says("Score: 11")) as (url, _):
        assert "expected a rating from 0 to 10, got 11 in 'Score: 11'" in refusal(
            lambda: judge(url, retries=0)(pictures(1), ["a cup"]), ValueError
        )
    with server(lambda r: (200, {"error": "x"})) as (url, _):
        assert "expected a chat completion, got" in refusal(
            lambda: judge(url, retries=0)(pictures(1), ["a cup"]), ValueError
        )


def test_questions_without_their_columns_are_refused_before_anything_is_sent():
    with server(rated) as (url, log):
        assert re.search(
            "KeyError.'prompt'.*there are low, hi",
            refusal(lambda: judge(url)(pictures(1)), ValueError),
        )
    assert not log.requests
    assert "expected low < high" in refusal(lambda: judge("http://x", low=1, high=1), ValueError)


def test_a_redirection_is_an_error_and_takes_no_key_along(monkeypatch):
    monkeypatch.setenv("SECRET", "sk-1")
    with server(rated) as (elsewhere, log):
        found = (302, {}, {"Location": elsewhere})
        with server(lambda r: found) as (url, _):
            assert "answers 302" in refusal(
                lambda: judge(url, retries=0, key_variable="SECRET")(pictures(1), ["a cup"]),
                ConnectionError,
            )
    assert not log.requests


def test_labels_are_sent_and_told_apart_by_the_cache():
    from rewards.remote import columns_of

    assert columns_of(torch.tensor([3, 7]), 2) == [{"label": "3"}, {"label": "7"}]
    with pytest.raises(ValueError, match=r"texts and numbers, not embeddings \(2, 4\)"):
        columns_of(torch.zeros(2, 4), 2)
