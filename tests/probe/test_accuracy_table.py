"""The paper's Table III of made-up results, in three formats that are read back."""

import csv
import io
import re
import shutil
import subprocess

import pytest

from fusion_engine.errors import FusionEngineError
from fusion_engine.probe.accuracy_table import accuracy_table
from fusion_engine.probe.published import published
from fusion_engine.probe.tasks import TASKS

from .builders import record, system

LAST, FUSION = system((22,), model="vggish"), system((10, 15), model="vggish")
SPEECH = {"task": "speech_commands", "title": "Speech Commands V2"}


def vggish():
    """Speech Commands as published, GTZAN which the fusion lowers, and a task of one's own."""
    return [
        record([0.14, 0.15], of=LAST, **SPEECH),
        record([0.91, 0.92], of=FUSION, **SPEECH),
        record([0.80, 0.82], of=LAST),
        record([0.75, 0.75], of=FUSION),
        record([0.5, 0.5], of=LAST, task="birds", title="Birds & bees"),
        record([0.6, 0.6], of=FUSION, task="birds", title="Birds & bees"),
    ]


def markdown_table(text):
    """The cells of the table, by what Markdown asks of one."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [re.split(r"(?<!\\)\|", line.strip())[1:-1] for line in lines]
    assert {len(row) for row in rows} == {len(rows[0])}
    assert all(re.fullmatch(r"-+:?", cell) for cell in rows[1])
    return [[cell.strip() for cell in row] for row in (rows[0], *rows[2:])]


def test_last_fusion_difference_average_beside_the_published():
    report = accuracy_table(vggish(), published())
    assert list(report.tasks) == ["speech_commands", "gtzan", "birds"]
    names = [(row.system, row.source) for row in report.rows]
    assert names == [
        ("vggish-last", "measured"),
        ("vggish-fusion", "measured"),
        ("vggish-fusion − vggish-last", "measured"),
        ("vggish-last", "published"),
        ("vggish-fusion", "published"),
        ("vggish-fusion − vggish-last", "published"),
        *((name, "published") for name in ("SF-NFNet-F0", "COLA", "OpenL3", "BYOL-A")),
    ]
    last, fusion, gain, _, _, claimed, *_ = report.rows
    assert last.accuracy == pytest.approx({"speech_commands": 14.5, "gtzan": 81, "birds": 50})
    assert gain.accuracy == pytest.approx({"speech_commands": 77, "gtzan": -6, "birds": 10})
    assert fusion.std["speech_commands"] == pytest.approx(0.5**0.5)
    assert report.average(fusion) == pytest.approx((91.5 + 75 + 60) / 3)
    # As printed: of the rounded accuracies it would be -4.5 and 77.1 here, elsewhere 0.1 off.
    assert claimed.accuracy == {"speech_commands": 77.1, "gtzan": -4.5}
    # Means over other tasks must not stand in the same column.
    assert report.average(claimed) is None


def test_markdown():
    header, *rows = markdown_table(accuracy_table(vggish(), published()).render("md"))
    assert header == ["system", "", "Speech Commands V2", "GTZAN", "Birds & bees", "average"]
    expected = ["vggish-last", "measured", "14.5 ± 0.7", "81.0 ± 1.4", "50.0 ± 0.0", "48.5"]
    assert rows[0] == expected
    assert rows[2][2:] == ["+77.0", "-6.0", "+10.0", "+27.0"]
    assert rows[5][2:] == ["+77.1", "-4.5", "–", "–"]
    assert rows[6] == ["SF-NFNet-F0", "published", "93.0", "–", "–", "–"]
    # Its authors' own numbers are plain, those that the paper measured are marked.
    assert rows[8] == ["OpenL3", "published", "87.9*", "73.3*", "–", "–"]
    assert rows[9] == ["BYOL-A", "published", "92.2", "73.6*", "–", "–"]


def test_csv():
    rows = list(csv.DictReader(io.StringIO(accuracy_table(vggish(), published()).render("csv"))))
    values = {(row["system"], row["source"], row["task"]): row for row in rows}
    assert len(values) == len(rows) == 3 * 4 + 3 * 2 + 2 * 1 + 2 * 2
    fusion = values["vggish-fusion", "measured", "speech_commands"]
    assert (float(fusion["accuracy"]), float(fusion["std"])) == pytest.approx((91.5, 0.7071))
    assert float(values["vggish-fusion", "published", "speech_commands"]["accuracy"]) == 91.4
    assert float(values["BYOL-A", "published*", "gtzan"]["accuracy"]) == 73.6
    assert ("vggish-fusion", "published", "average") not in values
    average = values["vggish-fusion − vggish-last", "measured", "average"]
    assert float(average["accuracy"]) == pytest.approx(27)


def test_latex(tmp_path):
    text = accuracy_table(vggish(), published()).render("tex")
    body = text[text.index(r"\begin{tabular}") :]
    columns = re.search(r"\{tabular\}\{(l+r+)\}", body)[1]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 11
    assert {len(re.split(r"(?<!\\)&", row)) for row in rows} == {len(columns)}
    assert r"Birds \& bees" in rows[0]
    assert r"14.5 $\pm$ 0.7" in rows[1]
    assert all(line.startswith("%") for line in text[: text.index(body)].splitlines())
    latex, find = shutil.which("pdflatex"), shutil.which("kpsewhich")
    if latex is None or find is None or subprocess.run([find, "booktabs.sty"]).returncode:
        return
    page = (
        rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{text}\end{{document}}"
    )
    (tmp_path / "table.tex").write_text(page.replace("}%", "}\n%"))
    subprocess.run([latex, "-halt-on-error", "table.tex"], cwd=tmp_path, check=True, timeout=60)


def test_every_special_character_of_latex():
    one = record([0.5], of=system(weights=r"a&b%c$d#e_f{g}h~i^j\k<l>m|n[o"))
    (row,) = [
        line
        for line in accuracy_table([one], published()).render("tex").splitlines()
        if " & measured & " in line
    ]
    assert r"a\&b\%c\$d\#e\_f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k" in row
    assert r"k\textless{}l\textgreater{}m\textbar{}n{[}o" in row


def test_a_note_of_several_lines_is_a_comment_and_an_item():
    """Those of a completed copy of the published numbers may be."""
    report = accuracy_table([record([0.5], notes=("one\n% two\nthree",))], published())
    assert "% GTZAN: one % two three\n" in report.render("tex")
    assert "- GTZAN: one % two three\n" in report.render("md")


def test_what_the_paper_does_not_have_is_named():
    text = accuracy_table(vggish(), published()).render("md")
    assert "the paper prints N/A for GTZAN of SF-NFNet-F0 and COLA" in text
    assert "for Speech Commands" not in text
    assert "- * measured by the paper's authors" in text
    assert "https://arxiv.org/abs/2205.08138" in text


def test_the_papers_own_tasks_have_its_own_averages():
    """As printed, in place of means of rounded numbers."""
    titles = {name: TASKS[name].title for name in list(TASKS)[:9]}
    ours = [record([0.5], of=FUSION, task=name, title=title) for name, title in titles.items()]
    report = accuracy_table(ours, published())
    averages = {(row.system, row.source): report.average(row) for row in report.rows}
    assert averages["vggish-fusion", "measured"] == 50
    assert averages["vggish-last", "published"] == 47.2
    assert averages["vggish-fusion − vggish-last", "published"] == 24.1
    # Of four tasks: no mean that could stand beside the others.
    assert averages["COLA", "published"] is None
    # The paper prints none; over all nine tasks.
    assert averages["OpenL3", "published"] == pytest.approx(69.278, abs=1e-3)


def test_a_difference_is_the_printed_one():
    """UrbanSound8K with CNN14: 85.8 − 82.0; Surge with AST: 34.6 − 25.8 is 8.8, printed 8.9."""
    models = [system((12,), model="ast"), system((5, 12), model="ast")]
    ours = [record([0.5], of=one, task="surge", title="Surge pitch") for one in models]
    rows = {(row.system, row.source): row for row in accuracy_table(ours, published()).rows}
    assert rows["ast-fusion − ast-last", "published"].accuracy == {"surge": 8.9}


def test_other_weights_and_precisions_have_their_own_rows():
    systems = [
        system((7,), weights="random:0", weights_sha256="1" * 64),
        system((3, 6), weights="random:0", weights_sha256="1" * 64),
        system((3, 6)),
        system((3, 6), precision="fp16"),
        system((7,), normalized=True),
        system((2, 6)),
    ]
    report = accuracy_table([record([0.5], of=one) for one in systems], published())
    assert [row.system for row in report.rows if row.source == "measured"] == [
        "cnn14-last (random:0)",
        "cnn14-last (task normalization)",
        "cnn14-fusion (random:0)",
        "cnn14-fusion",
        "cnn14-fusion (fp16)",
        # A difference of the same weights, precision and normalisation alone.
        "cnn14-fusion − cnn14-last (random:0)",
        "cnn14_16k-2-6",
    ]


def test_the_tasks_notes_are_kept():
    one = record([0.5], notes=("the split is NOT the fault-filtered one",))
    assert "- GTZAN: the split is NOT the fault-filtered one" in accuracy_table(
        [one], published()
    ).render("md")


def test_two_results_of_the_same():
    with pytest.raises(FusionEngineError, match="two results of cnn14-fusion on gtzan"):
        accuracy_table([record([0.5]), record([0.6])], published())


def test_results_of_other_splits_have_no_common_table():
    """As GTZAN with its file lists and without."""
    one, two = record([0.5], of=system((7,))), record([0.6], examples="2" * 64)
    with pytest.raises(FusionEngineError, match=r"cnn14-last and cnn14-fusion were .* different"):
        accuracy_table([one, two], published())
    # Another task has other clips, of course.
    assert accuracy_table([one, record([0.6], task="esc50", examples="2" * 64)], published())


def test_no_result():
    with pytest.raises(FusionEngineError, match="no result"):
        accuracy_table([], published())
