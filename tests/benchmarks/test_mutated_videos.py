"""benchmarks/mutated_videos.py, in small: the job's decoding gives a row for whatever it is handed."""

import csv

from benchmarks import mutated_videos
from tests import clips


def test_forty_mutated_files_give_forty_rows_and_end_no_process(tmp_path, monkeypatch, capsys):
    few = {"h264": ("mp4", clips.noisy(20)), "mpeg4-avi": ("avi", clips.noisy(20, container="avi", codec="mpeg4")),
           "variable-rate": ("mp4", clips.variable_rate()[0]), "song": ("mp4", clips.audio_only(cover=True))}
    monkeypatch.setattr(mutated_videos, "base_clips", lambda: few)
    table, folder = tmp_path / "rows.csv", tmp_path / "files"
    outcomes = mutated_videos.main(["40", "--decoder", "av", "--csv", str(table), "--keep", str(folder)])
    assert len(outcomes) == len(list(folder.iterdir())) == len(list(csv.DictReader(table.open()))) == 40
    assert mutated_videos.crashes(outcomes) == mutated_videos.hangs(outcomes) == 0
    assert {outcome.status for outcome in outcomes} == {"ok", "partial", "unreadable"}
    for outcome in outcomes:
        assert (outcome.status == "ok") == (outcome.reason == "") and (outcome.status == "unreadable") == (outcome.frames == 0)
        if outcome.mutation == "name" and outcome.clip in few:  # the content decides
            assert outcome.changed == 0 and outcome.status == ("unreadable" if outcome.clip == "song" else "ok")
    assert "40 files, 40 status rows: 0 crashes" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_files(monkeypatch):
    bases = {"noise": ("mp4", bytes(range(256)) * 40), "zeros": ("avi", bytes(999))}
    monkeypatch.setattr(mutated_videos, "base_clips", lambda: bases)
    first, again, other = (list(mutated_videos.files(30, seed)) for seed in (1, 1, 2))
    assert first == again != other
