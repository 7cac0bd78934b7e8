"""The page at `/` in a real Chromium: texts in, probabilities out; wide and narrow, light and dark, with a key."""

import re

import numpy as np
import pytest

from helpers.browser import faults, tab
from helpers.serving import served
from sft_judge.inference.serving.demo_page import page

pytestmark = pytest.mark.unit
KEY = "a-key-of-sixteen-letters"
TEXTS = {"prompt": "Name a prime.", "response_a": "Seven.", "response_b": "<b>Nine</b> & \"none\" 'else' \u202e 漢字"}


@pytest.fixture(scope="module")
def server(judge):
    with served(judge, keys=[KEY]) as (service, client):
        yield service, client


def test_the_page_asks_nothing_of_another_address_and_runs_its_own_script_alone(server):
    response = server[1].get("/")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "unsafe" not in policy
    assert re.findall(r"(?:src|href)\s*=\s*[\"']([^\"']*)", response.text) == ["data:,", "openapi.json"]
    assert "@import" not in response.text and "url(" not in response.text and "http:" not in response.text


def test_the_judges_name_is_text_on_it():
    assert "<script>alert" not in page("<script>alert(1)</script>", False)


@pytest.mark.parametrize("width, dark", [(1000, False), (390, True)])
def test_texts_that_are_pasted_are_judged(server, tmp_path, width, dark):
    headers = {"authorization": f"Bearer {KEY}"}
    expected = server[1].post("/v1/judge", json=TEXTS, headers=headers).json()["judgements"][0]
    with tab(str(server[1].base_url), width, dark) as (browser, said):
        for field, text in {**TEXTS, "key": KEY}.items():
            browser.fill(f"#{field}", text)
        browser.click("#ask")
        browser.wait_for_selector(".share")
        shown = browser.locator(".share").all_text_contents()
        assert shown == [f"{100 * expected[name]:.1f} %" for name in ("a", "b", "tie")]
        fills = browser.evaluate("[...document.querySelectorAll('.fill')].map((fill) => fill.offsetWidth)")
        shares = np.array([expected[name] for name in ("a", "b", "tie")])
        np.testing.assert_allclose(np.array(fills) / max(fills), shares / shares.max(), atol=0.02)
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        columns = browser.evaluate("getComputedStyle(document.querySelector('.two')).gridTemplateColumns")
        assert len(columns.split()) == (1 if width < 600 else 2)
        light = browser.evaluate("getComputedStyle(document.body).color")
        assert light == ("rgb(255, 255, 255)" if dark else "rgb(0, 0, 0)")
        browser.screenshot(path=tmp_path / "page.png")
        assert faults(browser) == []
    address = str(server[1].base_url).rstrip("/")
    assert set(said) <= {f"{address}/", f"{address}/v1/judge", "data:,"}, said


def test_an_example_is_filled_in_and_its_verdict_is_said_in_bold(server):
    with tab(str(server[1].base_url), 390) as (browser, _):
        browser.fill("#key", KEY)
        browser.click("#example")
        texts = {field: browser.input_value(f"#{field}") for field in TEXTS}
        browser.click("#ask")
        said = browser.wait_for_selector(".verdict").text_content()
        assert browser.evaluate("getComputedStyle(document.querySelector('.verdict')).fontWeight") == "700"
    headers = {"authorization": f"Bearer {KEY}"}
    verdict = server[1].post("/v1/judge", json=texts, headers=headers).json()["judgements"][0]["verdict"]
    assert said == {"a": "A is better.", "b": "B is better.", "tie": "Neither is better."}[verdict]


def test_several_turns_are_judged_as_one_conversation(server):
    turns = {field: [text, f"{text} again"] for field, text in TEXTS.items()}
    headers = {"authorization": f"Bearer {KEY}"}
    expected = server[1].post("/v1/judge", json=turns, headers=headers).json()["judgements"][0]
    with tab(str(server[1].base_url), 768, True) as (browser, _):
        browser.click("#add")
        browser.click("#add")
        browser.click("#remove")
        for field, (first, second) in turns.items():
            browser.fill(f"#{field}", first)
            browser.fill(f"#{field}-2", second)
        browser.fill("#key", KEY)
        browser.click("#ask")
        browser.wait_for_selector(".share")
        shown = browser.locator(".share").all_text_contents()
        assert faults(browser) == []
    assert shown == [f"{100 * expected[name]:.1f} %" for name in ("a", "b", "tie")]


def test_an_error_is_shown_and_the_button_works_again(server, tmp_path):
    with tab(str(server[1].base_url)) as (browser, _):
        for field, text in {**TEXTS, "key": "another-key"}.items():
            browser.fill(f"#{field}", text)
        browser.click("#ask")
        assert "Send a key" in browser.wait_for_selector(".error").text_content()
        browser.wait_for_selector("#ask:enabled")
