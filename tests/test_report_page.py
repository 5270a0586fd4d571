"""The report in a browser: it opens from disk, asks for nothing, and works with mouse, keyboard and links."""

import json

import pytest
from report_runs import HOSTILE, INJECTED, LENGTHS, make_run, run_all

import seq_alignment
from actalign.report.page import anchor


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a run on texts that do their worst. Not to be changed."""
    return run_all(tmp_path_factory.mktemp("page"), "--reject", "0.5")


@pytest.fixture
def open_page(browser):
    """A function that opens a report; at the end no error was logged and no request made but for the file itself."""
    contexts, requests, complaints = [], [], []

    def open_page(path, width=1280, scheme="light", fragment=""):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.as_uri() + fragment)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert requests


def shown(page):
    """The ids of the samples in the list, in order."""
    return page.locator(".sample:not([hidden]) summary .id").all_inner_texts()


def opened(page, id):
    """The place of a sample on the page, open and with all its heatmaps drawn."""
    sample = page.locator(f"[id='{anchor(id)}']")
    if sample.get_attribute("open") is None:
        sample.locator("summary").click()
    sample.locator(".option").first.wait_for()
    for heat in sample.locator(".heat").all():
        heat.scroll_into_view_if_needed()
        heat.locator(".main-svg").first.wait_for()
    return sample


# The example


def test_the_example_report_opens_and_tells_what_the_run_found(demo_folder, open_page, tmp_path):
    page = open_page(demo_folder / "report.html")
    summary = json.loads((demo_folder / "predictions.json").read_text())["summary"]
    assert f"{100 * summary['top1']['accuracy']:.1f}%" in page.locator("h1").inner_text()
    assert "exact McNemar test" in page.locator(".lead").first.inner_text()
    assert page.locator(".lead").nth(1).inner_text() == "A drawn world: nothing here is real sport."
    assert "not calibrated" in page.locator("#sure ~ .note").inner_text()
    assert page.locator("figure svg[aria-label]").count() == 2
    assert page.locator(".sample").count() == summary["scored"] == 80
    assert page.locator("#domains ~ .scroll tbody tr").count() == 5
    page.screenshot(path=tmp_path / "top.png")
    assert (tmp_path / "top.png").stat().st_size > 10_000


def test_the_example_report_shows_frames_scores_and_paths_of_a_sample(demo_folder, open_page):
    page = open_page(demo_folder / "report.html", fragment="#sample-yoga-03")
    entry = next(entry for entry in json.loads((demo_folder / "predictions.json").read_text())["samples"]
                 if entry["id"] == "yoga-03")
    sample = opened(page, "yoga-03")
    assert sample.locator(".scores .name").all_inner_texts() == [entry["cleaned_options"][k] for k in entry["ranking"]]
    assert sample.locator(".option").count() == 5
    assert sample.locator(".strip .picture").count() >= 8
    assert drawn_paths(sample) == [entry["paths"][k] for k in entry["ranking"]]


def drawn_paths(sample):
    """The cells of the line that is drawn over each heatmap, read back from Plotly."""
    return sample.locator(".plot").evaluate_all(
        "plots => plots.map(plot => plot.data[2].x.map((t, i) => [t, plot.data[2].y[i]]))")


# Texts that do their worst


def test_every_path_drawn_is_the_path_of_predictions_json(made, open_page):
    page = open_page(made / "report.html")
    for entry in json.loads((made / "predictions.json").read_text(encoding="utf-8"))["samples"]:
        sample = opened(page, entry["id"])
        expected = [entry["paths"][k] for k in entry["ranking"]]
        assert len(expected) == 3
        assert drawn_paths(sample) == expected
        values = sample.locator(".plot").evaluate_all("plots => plots.map(plot => plot.data[0].z)")
        for k, path, z in zip(entry["ranking"], expected, values, strict=True):
            mean = sum(z[m][t] for t, m in path) / len(path)
            assert mean == pytest.approx(entry["scores"][k], abs=1e-4)  # the similarity drawn is what was scored


def test_markup_in_texts_stays_text(made, open_page):
    page = open_page(made / "report.html")
    for id in LENGTHS:
        opened(page, id)
    page.locator(".more summary").first.click()
    page.wait_for_timeout(200)
    assert page.title() == "ActAlign report: published, 5 samples"
    assert page.locator("img, main b, main script").count() == 0
    names = page.locator(".option h3 .name").evaluate_all("names => names.map(name => name.textContent)")
    assert set(names) == set(HOSTILE[:7])
    texts = page.locator(".rows .text").evaluate_all("rows => rows.map(row => row.textContent)")
    assert {text.rpartition(" ")[0] for text in texts} == set(HOSTILE[:6])
    assert INJECTED in page.locator(".settings").inner_text()


@pytest.mark.parametrize("width", [1280, 400])
def test_long_texts_do_not_widen_the_page(made, open_page, width, tmp_path):
    page = open_page(made / "report.html", width)
    for id in LENGTHS:
        opened(page, id)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.screenshot(path=tmp_path / f"{width}.png", full_page=True)


def test_no_cell_is_cut_at_400_pixels(tmp_path, open_page):
    page = open_page(run_all(tmp_path, "--alignment", "all", "--controls", "--reject", "0.5") / "report.html", 400)
    page.locator(".more > summary").first.click()
    tables = page.locator(".scroll").evaluate_all("all => all.map(one => [one.scrollWidth, one.clientWidth])")
    assert len(tables) >= 5
    assert all(whole <= visible for whole, visible in tables), tables


# The list


def test_the_list_is_filtered_by_outcome_and_text(made, open_page):
    page = open_page(made / "report.html")
    everything = list(LENGTHS)
    assert shown(page) == everything
    outcomes = {id: row.inner_text() for id, row in
                zip(everything, page.locator(".sample summary .mark").all(), strict=True)}
    for kind in ("right", "wrong"):
        page.get_by_label(kind, exact=True).check()
        assert shown(page) == [id for id in everything if kind in outcomes[id]]
        assert page.locator("#count").inner_text() == f"{len(shown(page))} of 5"
    page.get_by_label("disagree", exact=True).check()
    assert 0 < len(shown(page)) < 5
    page.get_by_label("all", exact=True).check()
    page.locator("#find").fill("NO/fr")
    assert shown(page) == ["no/frames"]
    page.locator("#find").fill("onerror= title")  # in the sub-actions of all whose options go round to it
    assert 0 < len(shown(page)) <= 5
    page.locator("#find").fill("nothing like it")
    assert shown(page) == []
    page.get_by_role("button", name="Show all").click()
    assert shown(page) == everything


def test_the_list_is_filtered_by_domain(demo_folder, open_page):
    page = open_page(demo_folder / "report.html")
    page.locator("#domain").select_option(label="martial arts")
    assert shown(page) == [f"martial-arts-{n:02d}" for n in range(1, 17)]
    page.locator("#domain").select_option(label="all domains")
    assert len(shown(page)) == 80


def test_the_list_is_sorted_by_margin(made, open_page):
    page = open_page(made / "report.html")
    margins = {}
    for entry in json.loads((made / "predictions.json").read_text(encoding="utf-8"))["samples"]:
        best, second, *_ = sorted(entry["scores"], reverse=True)
        margins[entry["id"]] = best - second
    page.locator("#sort").select_option("narrow")
    assert shown(page) == sorted(margins, key=margins.get)
    page.locator("#sort").select_option("wide")
    assert shown(page) == sorted(margins, key=margins.get, reverse=True)
    page.locator("#sort").select_option("number")
    assert shown(page) == list(LENGTHS)


def test_a_link_opens_its_sample_even_where_it_was_filtered_away(made, open_page):
    page = open_page(made / "report.html", fragment=f"#{anchor(INJECTED)}")
    sample = page.locator(f"[id='{anchor(INJECTED)}']")
    assert sample.get_attribute("open") is not None
    assert sample.locator("summary").is_visible()
    assert page.locator(".sample[open]").count() == 1
    page.locator("#find").fill("no/frames")
    page.evaluate(f"location.hash = '{anchor('wide one')}'")
    page.locator("[id='sample-wide%20one'][open]").wait_for()
    assert page.locator("#find").input_value() == ""
    page.locator(".more summary").first.click()
    page.locator(".more a").first.click()
    assert page.locator(".sample[open]").count() >= 2


def test_the_list_is_filtered_and_sorted_by_confidence_and_by_none_of_these(made, open_page):
    page = open_page(made / "report.html")
    samples = json.loads((made / "predictions.json").read_text(encoding="utf-8"))["samples"]
    confidences = {entry["id"]: entry["confidence"] for entry in samples}
    page.locator("#confidence").select_option("0.5 0.8")
    assert shown(page) == [id for id in LENGTHS if 0.5 <= confidences[id] < 0.8] == ["no/frames"]
    assert "confidence 0.60" in page.locator(".sample:not([hidden]) summary").inner_text()
    page.locator("#confidence").select_option("0 2")
    for order, reverse in (("unsure", False), ("sure", True)):
        page.locator("#sort").select_option(order)
        assert shown(page) == sorted(LENGTHS, key=confidences.get, reverse=reverse)
    page.get_by_label("none of these").check()
    assert shown(page) == [entry["id"] for entry in samples if entry["none_of_these"]] == ["single frame"]
    assert page.locator(".sample:not([hidden]) .tag").first.inner_text() == "none of these"
    page.locator("#confidence").select_option("0.95 2")
    page.get_by_role("button", name="Show all").click()
    assert len(shown(page)) == 5


# Time: phases, player, zoom


def frame_of(sample):
    """The frame that the player of an open sample is at."""
    return int(sample.locator("input[type=range]").input_value())


def cursors_of(sample):
    """Where the cursors in all pictures of an open sample are, in pixels from the left."""
    return sample.locator(".cursor").evaluate_all("all => all.map(one => one.getBoundingClientRect().left)")


def test_phases_are_told_as_predictions_json_tells_them(made, open_page):
    page = open_page(made / "report.html")
    kinds = set()
    for entry in json.loads((made / "predictions.json").read_text(encoding="utf-8"))["samples"]:
        sample = opened(page, entry["id"])
        for k, panel in zip(entry["ranking"], sample.locator(".option").all(), strict=True):
            phases = entry["phases"][k]
            bars = iter(panel.locator(".bar").all())
            for m, (phase, when) in enumerate(zip(phases, panel.locator(".rows .when").all_inner_texts(), strict=True)):
                if phase["first_frame"] is None:
                    assert when == "skipped"
                    kinds.add("skipped")
                    continue
                bar = next(bars)
                assert when.startswith(f"{phase['start']:.2f}\u2013{phase['end']:.2f} s")
                assert bar.inner_text().startswith(f"{m + 1} ")
                assert when.endswith("not found") == ("not found: " in bar.text_content()) == (not phase["found"])
                assert bar.get_attribute("class") == ("bar" if phase["found"] else "bar lost")
                kinds.add(phase["found"])
            assert next(bars, None) is None
    assert kinds == {"skipped", True, False}


@pytest.mark.parametrize("key", ["click", "Enter"])
def test_a_phase_leads_to_its_first_frame_in_all_pictures(made, open_page, key):
    page = open_page(made / "report.html")
    sample = opened(page, "plain")
    entry = json.loads((made / "predictions.json").read_text(encoding="utf-8"))["samples"][0]
    k = entry["ranking"][1]
    phases = [phase for phase in entry["phases"][k] if phase["first_frame"] is not None]
    bars = sample.locator(".option").nth(1).locator(".bar")
    before = cursors_of(sample)
    if key == "click":
        bars.nth(1).click()
    else:
        bars.first.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
    assert frame_of(sample) == phases[1]["first_frame"] > 0
    assert bars.nth(1).get_attribute("aria-current") == "true"
    after = cursors_of(sample)
    assert len(after) == 1 + 3 + 3  # strip, timelines, similarities
    assert max(after) - min(after) < 1 < min(after) - max(before)
    assert phases[1]["subaction"] in sample.locator(".doing").text_content()


def test_the_scrubber_steps_frames_and_tells_seconds_of_the_video(tmp_path, open_page):
    arguments = make_run(tmp_path, {"only": 9}, fields=lambda T: {"timestamps": [60 + t / 4 for t in range(T)]})
    assert seq_alignment.main([*arguments, "--report", str(tmp_path / "r.html")]) == 0
    page = open_page(tmp_path / "r.html")
    sample = opened(page, "only")
    assert sample.locator(".about").first.inner_text().startswith("9 frames, 2.3 s")  # the last one too is shown
    range_input = sample.locator("input[type=range]")
    range_input.focus()
    for key, when in [("ArrowRight", "60.25 s"), ("ArrowRight", "60.50 s"), ("ArrowLeft", "60.25 s"),
                      ("End", "62.00 s"), ("ArrowRight", "62.00 s"), ("Home", "60.00 s")]:
        page.keyboard.press(key)
        assert sample.locator(".readout .when strong").inner_text() == when
        assert range_input.get_attribute("aria-valuetext").startswith(f"{when}, ")
        assert max(cursors_of(sample)) - min(cursors_of(sample)) < 1
    box = range_input.bounding_box()  # whose thumb is 16 pixels wide
    assert box["x"] + 8 == pytest.approx(cursors_of(sample)[0], abs=1)


def test_a_clip_is_played_at_its_rate_until_it_ends_or_is_stopped(made, open_page):
    page = open_page(made / "report.html")
    sample = opened(page, "plain")
    button = sample.locator(".play")
    began = page.evaluate("performance.now()")
    button.click()
    sample.locator(".play:not(.playing)").wait_for()
    assert frame_of(sample) == LENGTHS["plain"] - 1
    assert page.evaluate("performance.now()") - began >= 1000 * (LENGTHS["plain"] - 1) / 25
    button.click()  # again, from its beginning
    page.keyboard.press("Space")
    assert button.inner_text() == "play"
    button.click()
    sample.locator("summary").click()  # closed while it plays


def test_all_pictures_of_a_sample_show_the_same_part_of_time(made, open_page):
    page = open_page(made / "report.html")
    page.locator(f"[id='{anchor('plain')}'] input[type=range]").focus()  # before a heatmap of it was drawn
    sample = page.locator(f"[id='{anchor('plain')}']")
    page.keyboard.press("End")
    first = sample.locator(".strip .picture").first.evaluate("one => one.style.backgroundPosition")
    sample.get_by_label("look closer").click()
    opened(page, "plain")
    wait_for_ranges(page, [11.5, 23.5])
    assert sample.locator(".strip .picture").first.evaluate("one => one.style.backgroundPosition") != first
    for line in sample.locator(".timeline").all():
        box, bar = line.bounding_box(), line.locator(".bar").last.bounding_box()
        assert bar["x"] + bar["width"] == pytest.approx(box["x"] + box["width"], abs=2)
    page.keyboard.press("Tab")
    sample.locator("input[type=range]").focus()
    page.keyboard.press("Home")  # out of sight, so that what is seen follows
    wait_for_ranges(page, [-0.5, 11.5])
    sample.get_by_label("see more time").click()
    wait_for_ranges(page, [-0.5, 23.5])
    assert max(cursors_of(sample)) - min(cursors_of(sample)) < 1


def wait_for_ranges(page, expected):
    """Wait until every heatmap that is drawn of the sample "plain" shows these frames."""
    page.wait_for_function("""([id, expected]) => {
      const plots = [...document.getElementById(id).querySelectorAll(".plot")];
      return plots.length && plots.every((plot) => plot.layout && String(plot.layout.xaxis.range) === String(expected));
    }""", arg=[anchor("plain"), expected])


# One cell


def first_heatmap(page):
    """The first similarity of the sample "plain", scrolled to, and the box of its plot."""
    heat = opened(page, "plain").locator(".heat").first
    heat.scroll_into_view_if_needed()
    before = None
    while (box := heat.locator(".plot").bounding_box()) != before:  # plots above it may be drawn still
        before = box
        page.wait_for_timeout(100)
    return heat, box


def test_pointing_at_a_cell_shows_its_frame_time_sub_action_and_similarity(made, open_page):
    page = open_page(made / "report.html")
    heat, box = first_heatmap(page)
    t, m = 10, 2
    heat.hover(position={"x": 12 + (box["width"] - 24) * (t + 0.5) / LENGTHS["plain"], "y": 34 * (m + 0.5)})
    tip = page.locator("#tip")
    tip.wait_for()
    lines = tip.inner_text().splitlines()
    z = heat.locator(".plot").evaluate("plot => plot.data[0].z")
    text = heat.locator("xpath=..").locator(".rows .text").nth(m).evaluate("row => row.textContent")
    assert "0.40 s · frame 10" in lines
    assert f"{m + 1}. {text}" in tip.evaluate("tip => tip.textContent")
    similarity = next(line for line in lines if line.startswith("similarity "))
    assert float(similarity.split()[1]) == pytest.approx(z[m][t], rel=0.01)
    assert red_of(page, tip.locator(".picture").bounding_box()) == pytest.approx(5 * t, abs=6)
    player = heat.locator("xpath=ancestor::details").locator(".player").bounding_box()
    assert tip.bounding_box()["y"] >= player["y"] + player["height"]  # so it does not cover the film strip
    page.mouse.move(5, 5)
    assert tip.is_hidden()


def test_a_part_of_the_time_is_looked_at_closer(made, open_page):
    page = open_page(made / "report.html")
    _, box = first_heatmap(page)
    width, y = box["width"] - 24, box["y"] + 20
    page.mouse.move(box["x"] + 12 + width / 2, y)
    page.mouse.down()
    page.mouse.move(box["x"] + 12 + width, y, steps=4)
    page.mouse.up()
    point_until(page, box["x"] + 12 + width * 0.01, y, "frame 12")  # of 24, where the second half begins
    wait_for_ranges(page, [11.5, 23.5])
    point_until(page, box["x"] + 12 + width * 0.01, y, "frame 0",
                lambda: page.mouse.dblclick(box["x"] + 12 + width / 2, y))
    wait_for_ranges(page, [-0.5, 23.5])


def point_until(page, x, y, text, again=lambda: None):
    """Point at a place until the tip says a text there: the browser draws another part of the time when it can.

    again: done every two seconds, for what a busy browser may not have noticed, such as two clicks as a double one
    """
    for n in range(300):
        if n % 20 == 0:
            again()
        page.mouse.move(x, y + n % 2)
        if text in page.locator("#tip").inner_text():
            return
        page.wait_for_timeout(100)
    raise AssertionError(page.locator("#tip").inner_text())


def red_of(page, box):
    """The mean red of a part of what the browser shows."""
    import io

    import numpy as np
    from PIL import Image

    image = Image.open(io.BytesIO(page.screenshot(clip={key: box[key] + (4 if key in "xy" else -8) for key in box})))
    return np.asarray(image.convert("RGB"))[..., 0].mean()


def test_a_heatmap_is_read_by_keyboard(made, open_page):
    page = open_page(made / "report.html")
    sample = opened(page, "plain")
    sample.locator(".bar").first.focus()
    page.keyboard.press("Tab")  # the bars of a timeline are one stop
    heat = sample.locator(".heat").first
    assert heat.evaluate("heat => heat === document.activeElement && heat.matches(':focus-visible')")
    assert page.locator("#live").inner_text().startswith("0.00 s, 1. ")
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowLeft", "Shift+ArrowRight"):
        page.keyboard.press(key)
    assert page.locator("#live").inner_text().startswith("0.44 s, 2. ")
    assert "frame 11" in page.locator("#tip").inner_text()
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")
    assert page.locator("#live").inner_text().startswith("0.92 s, 2. ")
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()


def test_what_a_heatmap_shows_is_told_in_words(made, open_page):
    page = open_page(made / "report.html")
    label = opened(page, "wide one").locator(".heat").first.get_attribute("aria-label")
    assert label.startswith("Similarity of 7 frames with 4 sub-actions of ")
    assert ", skipped; " in opened(page, "single frame").locator(".heat").first.get_attribute("aria-label")
    assert "The best path: " in label
    assert page.locator("main [role=img]:not([aria-label])").count() == 0


def test_samples_open_by_keyboard(made, open_page):
    page = open_page(made / "report.html")
    page.locator("#find").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")  # the first sample is open, so its link comes before the second sample
    for _ in range(10):
        if page.evaluate("document.activeElement.matches('.sample:nth-of-type(2) > summary')"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator(".sample[open]").count() == 2


def test_samples_without_frames_and_of_a_single_frame_are_drawn(made, open_page):
    page = open_page(made / "report.html")
    assert opened(page, "no/frames").locator(".strip").count() == 0
    sample = opened(page, "single frame")
    assert sample.locator(".strip .picture").count() == 1
    sample.locator(".heat").first.hover(position={"x": 200, "y": 10})
    assert "frame 0" in page.locator("#tip").inner_text()


# Dark and light


def luminance(color):
    """WCAG 2 relative luminance of "rgb(r, g, b)"."""
    channels = [int(part) / 255 for part in color[color.index("(") + 1:-1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055)**2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_what_is_behind_them(made, open_page, scheme):
    page = open_page(made / "report.html", scheme=scheme)
    for id in ("plain", "wide one"):
        opened(page, id)
    pairs = page.evaluate("""() => {
      const behind = (element) => {
        for (let e = element; e; e = e.parentElement) {
          const color = getComputedStyle(e).backgroundColor;
          if (!/, 0\\)$|transparent/.test(color)) return color;
        }
      };
      return [...document.querySelectorAll("body *")]
        .filter((e) => !e.closest("svg, script, noscript, option") && e.checkVisibility()
          && [...e.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
        .map((e) => [getComputedStyle(e).color, behind(e), e.className + " " + e.textContent.slice(0, 20)]);
    }""")
    assert len(pairs) > 100
    for text, background, what in pairs:
        light, dark = sorted((luminance(text), luminance(background)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, what  # WCAG 2, level AA
    is_dark = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) < 0.2
    assert is_dark == (scheme == "dark")


def test_drawn_heatmaps_follow_from_light_to_dark(made, open_page):
    page = open_page(made / "report.html")
    sample = opened(page, "plain")
    color = "plot => getComputedStyle(plot.querySelector('.xtick text')).fill"
    before = sample.locator(".plot").first.evaluate(color)
    page.emulate_media(color_scheme="dark")
    for _ in range(300):
        if sample.locator(".plot").first.evaluate(color) != before:
            return
        page.wait_for_timeout(100)
    pytest.fail("the plots stay light")


def test_the_colour_map_rises_in_grey(made, open_page):
    page = open_page(made / "report.html")
    scale = opened(page, "plain").locator(".plot").first.evaluate("plot => plot.data[0].colorscale.map(([, c]) => c)")
    grey = [luminance(f"rgb({int(c[1:3], 16)}, {int(c[3:5], 16)}, {int(c[5:7], 16)})") for c in scale]
    assert grey == sorted(grey)
    assert grey[-1] > grey[0] + 0.7


# Runs of which little is known


def test_a_page_of_one_sample_without_answer_frames_or_comparison_works(tmp_path, open_page):
    arguments = make_run(tmp_path, {"only": 9}, {"only": None})
    assert seq_alignment.main([*arguments, "--report", str(tmp_path / "r.html")]) == 0
    page = open_page(tmp_path / "r.html")
    assert "No answers are known" in page.locator(".lead").inner_text()
    assert page.locator("input[name=show]").count() == 0
    assert opened(page, "only").locator(".tag").all_inner_texts()[0] == "predicted"


@pytest.mark.parametrize(("fields", "ticks", "when"), [
    (lambda T: {}, [*"012345678"], "frame 2"),
    (lambda T: {"timestamps": "none"}, [*"012345678"], "frame 2"),
    (lambda T: {"timestamps": [7.5] * T}, ["7.5 s"], "7.50 s"),
    (lambda T: {"timestamps": [100 + t * t for t in range(T)]}, [f"{second} s" for second in range(100, 170, 10)],
     "104.00 s"),
], ids=["none", "odd", "equal", "uneven"])
def test_time_is_told_as_far_as_it_is_known(tmp_path, open_page, fields, ticks, when):
    arguments = make_run(tmp_path, {"only": 9}, fields=fields)
    assert seq_alignment.main([*arguments, "--report", str(tmp_path / "r.html")]) == 0
    page = open_page(tmp_path / "r.html")
    heat = opened(page, "only").locator(".heat").first
    assert heat.locator(".xtick text").all_text_contents() == ticks
    heat.focus()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    assert page.locator("#live").inner_text().startswith(f"{when}, 1. ")


def test_a_run_without_order_draws_no_path(tmp_path, open_page):
    arguments = make_run(tmp_path)
    assert seq_alignment.main([*arguments, "--alignment", "unordered", "--report", str(tmp_path / "r.html")]) == 0
    page = open_page(tmp_path / "r.html")
    sample = opened(page, "plain")
    assert sample.locator(".plot").first.evaluate("plot => plot.data.length") == 1
    assert "No path. Arrow keys" in sample.locator(".heat").first.get_attribute("aria-label")
    assert page.locator(".timeline, #confidence, #sure").count() == 0
    assert sample.locator(".player").is_visible()


def test_a_page_that_was_cut_short_says_so_where_its_data_is_missing(made, tmp_path, browser):
    html = (made / "report.html").read_text(encoding="utf-8").replace('"similarity":"', '"similarity":"!', 1)
    (tmp_path / "damaged.html").write_text(html, encoding="utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "damaged.html").as_uri())
    assert "cannot be read" in page.locator(".sample[open] .error").inner_text()
    page.close()


def test_the_page_could_not_reach_the_network_if_it_tried(made, browser):
    page = browser.new_page()
    failures = {}  # an image that the policy refuses is told of as a request that failed
    page.on("requestfailed", lambda request: failures.update({request.url: request.failure}))
    page.goto((made / "report.html").as_uri())
    refused = page.evaluate("""async () => {
      const refused = [];
      document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
      await fetch("https://example.org/").catch(() => {});
      const image = document.createElement("img");
      image.src = "https://example.org/pixel.png";
      const script = document.createElement("script");
      script.textContent = "document.title = 'hacked'";
      document.body.append(image, script);
      await new Promise((resolve) => setTimeout(resolve, 200));
      return refused;
    }""")
    assert {"connect-src", "img-src", "script-src-elem"} <= set(refused)
    assert page.title().startswith("ActAlign report")
    assert all("csp" in failure.lower() for failure in failures.values()), failures
    page.close()
