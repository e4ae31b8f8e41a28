import json

import pytest

from robust.config import DatasetConfig
from robust.data.layouts import LAYOUTS
from robust.data.tree import FileTree
from robust.errors import UserError


def write(root, *paths, text=""):
    for path in paths:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


def read(root, layout, **fields):
    """{video_id without the data set: row} and the problems as one text."""
    config = DatasetConfig(layout=layout, uri=str(root), **fields)
    result = LAYOUTS[layout](FileTree.open(str(root)), config)
    assert len({row.video_id for row in result.rows}) == len(result.rows)
    return {row.video_id.split("/", 1)[1]: row for row in result.rows}, "\n".join(result.problems)


# ------------------------------------------------------------------------------------------------------------ Celeb-DF


def celeb_df(root):
    write(
        root, "Celeb-real/id0_0000.mp4", "Celeb-real/id1_0003.mp4", "YouTube-real/00170.mp4", "YouTube-real/00011.mp4"
    )
    write(root, "Celeb-synthesis/id0_id1_0000.mp4", "Celeb-synthesis/id16_id3_0003.mp4")
    lines = "1 YouTube-real/00170.mp4\n1 Celeb-real/id0_0000.mp4\n0 Celeb-synthesis/id0_id1_0000.mp4\n"
    write(root, "List_of_testing_videos.txt", text=lines)


@pytest.mark.parametrize("layout", ["celeb_df_v1", "celeb_df_v2"])
def test_celeb_df_labels_people_and_test_list(tmp_path, layout):
    celeb_df(tmp_path)
    rows, problems = read(tmp_path, layout)
    assert problems == ""
    assert {name: row.label for name, row in rows.items()} == {
        "Celeb-real/id0_0000": 0,
        "Celeb-real/id1_0003": 0,
        "YouTube-real/00170": 0,
        "YouTube-real/00011": 0,
        "Celeb-synthesis/id0_id1_0000": 1,
        "Celeb-synthesis/id16_id3_0003": 1,
    }
    assert rows["Celeb-synthesis/id16_id3_0003"].identities == ("celeb_df_v2:id16", "celeb_df_v2:id3")
    assert rows["Celeb-real/id1_0003"].identities == ("celeb_df_v2:id1",)
    assert rows["YouTube-real/00170"].identities != rows["YouTube-real/00011"].identities
    tests = {name for name, row in rows.items() if row.split == "test"}
    assert tests == {"YouTube-real/00170", "Celeb-real/id0_0000", "Celeb-synthesis/id0_id1_0000"}
    assert {row.split for row in rows.values()} == {"test", "train"}
    assert rows["Celeb-real/id0_0000"].uri == str(tmp_path / "Celeb-real/id0_0000.mp4")


def test_celeb_df_methods_file_tells_kinds_apart(tmp_path):
    celeb_df(tmp_path)
    write(
        tmp_path, "methods.csv", text="video,method\nCeleb-synthesis/id0_id1_0000.mp4,coarse\nid9_id9_0009.mp4,fine\n"
    )
    rows, problems = read(tmp_path, "celeb_df_v2", name="demo")
    assert rows["coarse/id0_id1_0000"].video_id == "demo/coarse/id0_id1_0000"
    assert "Celeb-synthesis/id16_id3_0003" in rows
    assert "methods.csv that are not there (1): Celeb-synthesis/id9_id9_0009" in problems


def test_celeb_df_says_what_does_not_fit(tmp_path):
    celeb_df(tmp_path)
    write(tmp_path, "Celeb-real/holiday.mp4", "Celeb-real/notes.txt")
    (tmp_path / "YouTube-real").rename(tmp_path / "Youtube_real")
    with open(tmp_path / "List_of_testing_videos.txt", "a") as file:
        file.write("rubbish\n0 Celeb-real/id1_0003.mp4\n0 Celeb-synthesis/id7_id8_0001.mp4\n")
    rows, problems = read(tmp_path, "celeb_df_v2")
    assert "Celeb-real/holiday" not in rows
    assert "(2): Celeb-real/holiday.mp4, Celeb-real/notes.txt" in problems
    assert "found 'Youtube_real', expected 'YouTube-real'" in problems
    assert "left out (1): rubbish" in problems
    assert "contradicts the folder; the folder counts (1): 0 Celeb-real/id1_0003.mp4" in problems
    assert "not there (2): Celeb-synthesis/id7_id8_0001, YouTube-real/00170" in problems
    assert rows["Celeb-real/id1_0003"].label == 0


def test_celeb_df_validation_list_is_read_and_the_test_list_goes_first(tmp_path):
    celeb_df(tmp_path)
    lines = "1 YouTube-real/00011.mp4\n1 Celeb-real/id0_0000.mp4\n0 Celeb-synthesis/id5_id6_0000.mp4\n"
    write(tmp_path, "List_of_validation_videos.txt", text=lines)
    rows, problems = read(tmp_path, "celeb_df_v2")
    assert {name for name, row in rows.items() if row.split == "val"} == {"YouTube-real/00011"}
    assert rows["Celeb-real/id0_0000"].split == "test" and rows["Celeb-real/id1_0003"].split == "train"
    assert "that are test videos too; they are tests (1): Celeb-real/id0_0000" in problems
    assert "List_of_validation_videos.txt that are not there (1): Celeb-synthesis/id5_id6_0000" in problems


def test_celeb_df_without_a_list_has_no_official_split(tmp_path):
    celeb_df(tmp_path)
    (tmp_path / "List_of_testing_videos.txt").rename(tmp_path / "list_of_testing_video.txt")
    rows, problems = read(tmp_path, "celeb_df_v2")
    assert {row.split for row in rows.values()} == {None}
    assert "found 'list_of_testing_video.txt', expected 'List_of_testing_videos.txt'" in problems


def test_a_root_that_is_not_the_data_set_names_what_is_missing_and_what_is_there(tmp_path):
    write(tmp_path, "Celeb_real/id0_0000.mp4", "fakes/a.mp4")
    with pytest.raises(UserError) as error:
        read(tmp_path, "celeb_df_v2")
    for part in (
        "Celeb-real/",
        "YouTube-real/",
        "Celeb-synthesis/",
        "found 'Celeb_real', expected 'Celeb-real'",
        "There is: Celeb_real, fakes",
        str(tmp_path),
    ):
        assert part in str(error.value)


def test_a_root_one_level_too_high_is_told_the_right_one(tmp_path):
    celeb_df(tmp_path / "Celeb-DF-v2")
    with pytest.raises(UserError, match=f"set the data set's uri to {tmp_path}/Celeb-DF-v2"):
        read(tmp_path, "celeb_df_v2")


# ------------------------------------------------------------------------------------------------------ FaceForensics++

FF_FAKES = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "FaceShifter")


def ff(root, quality="c23", splits=True):
    for number in ("000", "003", "004", "982", "720", "672", "331", "332"):
        write(root, f"original_sequences/youtube/{quality}/videos/{number}.mp4")
    for method in FF_FAKES:
        for pair in ("000_003", "003_000", "004_982", "720_672", "672_720", "331_332"):
            write(root, f"manipulated_sequences/{method}/{quality}/videos/{pair}.mp4")
    write(root, f"original_sequences/actors/{quality}/videos/01__exit_phone_room.mp4")
    fake = "01_02__exit_phone_room__YVGY8LOK.mp4"
    write(root, f"manipulated_sequences/DeepFakeDetection/{quality}/videos/{fake}")
    for split, pair in (
        {"train": ["720", "672"], "val": ["004", "982"], "test": ["000", "003"]}.items() if splits else ()
    ):
        write(root, f"splits/{split}.json", text=json.dumps([pair]))
    write(root, "conversion_dict.json", text='{"000": "--b1 0", "331": "R03 0", "332": "R03 1"}')


def test_ff_ids_are_unique_over_methods_and_carry_both_people(tmp_path):
    ff(tmp_path)
    rows, problems = read(tmp_path, "faceforensics")
    same_name = [row for name, row in rows.items() if name.endswith("/000_003")]
    assert sorted(row.method for row in same_name) == sorted(FF_FAKES)
    assert len({row.video_id for row in same_name}) == 5
    assert {row.identities for row in same_name} == {("faceforensics:000", "faceforensics:003")}
    fake = rows["DeepFakeDetection/01_02__exit_phone_room__YVGY8LOK"]
    assert fake.identities == ("faceforensics:actor01", "faceforensics:actor02") and fake.label == 1
    assert rows["actors/01__exit_phone_room"].identities == ("faceforensics:actor01",)
    assert len(rows) == 8 + 5 * 6 + 2


def test_ff_keeps_its_official_splits(tmp_path):
    ff(tmp_path)
    rows, problems = read(tmp_path, "faceforensics")
    assert {
        name: rows[name].split
        for name in (
            "youtube/000",
            "FaceSwap/003_000",
            "youtube/982",
            "FaceShifter/004_982",
            "Deepfakes/720_672",
            "youtube/331",
            "actors/01__exit_phone_room",
        )
    } == {
        "youtube/000": "test",
        "FaceSwap/003_000": "test",
        "youtube/982": "val",
        "FaceShifter/004_982": "val",
        "Deepfakes/720_672": "train",
        "youtube/331": "excluded",
        "actors/01__exit_phone_room": None,
    }
    assert "excluded (7)" in problems  # 331, 332 and five fakes of them are in no list
    (tmp_path / "splits/val.json").unlink()
    rows, problems = read(tmp_path, "faceforensics")
    assert {row.split for row in rows.values()} == {None} and "(1): val.json" in problems


def test_ff_sequences_of_one_youtube_video_share_a_person(tmp_path):
    ff(tmp_path)
    rows, _ = read(tmp_path, "faceforensics")
    people = {rows[name].identities for name in ("youtube/331", "youtube/332", "FaceSwap/331_332")}
    assert people == {("faceforensics:331",)}  # one person, counted once
    assert not set(rows["youtube/331"].identities) & set(rows["youtube/000"].identities)


@pytest.mark.parametrize(("folder", "compression"), [("raw", "c0"), ("c0", "c0"), ("c40", "c40")])
def test_ff_compressions(tmp_path, folder, compression):
    ff(tmp_path, quality=folder)
    rows, _ = read(tmp_path, "faceforensics", compression=compression)
    assert len(rows) == 40 and f"/{folder}/" in rows["youtube/000"].uri


def test_ff_at_another_compression_names_what_is_there(tmp_path):
    ff(tmp_path, quality="c40")
    with pytest.raises(UserError, match="youtube/c23/videos not found: original_sequences/youtube holds c40"):
        read(tmp_path, "faceforensics")


def test_ff_complains_only_of_the_methods_asked_for(tmp_path):
    ff(tmp_path)
    (tmp_path / "manipulated_sequences/FaceShifter").rename(tmp_path / "manipulated_sequences/Face_Shifter")
    _, problems = read(tmp_path, "faceforensics", methods=["Deepfakes"])
    assert "Shifter" not in problems
    _, problems = read(tmp_path, "faceforensics")
    assert "found 'manipulated_sequences/Face_Shifter', expected 'manipulated_sequences/FaceShifter'" in problems


# ---------------------------------------------------------------------------------------------------------------- DFDC


def dfdc(root):
    entries = {
        "aaa.mp4": {"label": "FAKE", "split": "train", "original": "bbb.mp4"},
        "bbb.mp4": {"label": "REAL", "split": "train"},
        "ccc.mp4": {"label": "FAKE", "split": "train", "original": "elsewhere.mp4"},
        "gone.mp4": {"label": "REAL", "split": "train"},
        "odd.mp4": {"label": "MAYBE", "split": "train"},
    }
    write(root, "dfdc_train_part_0/metadata.json", text=json.dumps(entries))
    write(root, *(f"dfdc_train_part_0/{name}.mp4" for name in ("aaa", "bbb", "ccc", "odd", "unlisted")))
    write(root, "dfdc_train_part_1/metadata.json", text=json.dumps({"ddd.mp4": {"label": "REAL"}}))
    write(root, "dfdc_train_part_1/ddd.mp4")


def test_dfdc_labels_and_originals(tmp_path):
    dfdc(tmp_path)
    rows, problems = read(tmp_path, "dfdc")
    assert {name: (row.label, row.identities, row.split) for name, row in rows.items()} == {
        "dfdc-fake/aaa": (1, ("dfdc:bbb",), None),
        "dfdc-real/bbb": (0, ("dfdc:bbb",), None),
        "dfdc-fake/ccc": (1, ("dfdc:elsewhere",), None),
        "dfdc-real/ddd": (0, ("dfdc:ddd",), None),
    }
    for part in (
        "names no people",
        "not there (1): dfdc_train_part_0/gone.mp4",
        "left out (1): dfdc_train_part_0/odd.mp4",
        "(original elsewhere)",
        "in no metadata.json, left out (1): dfdc_train_part_0/unlisted.mp4",
    ):
        assert part in problems


def test_dfdc_test_and_validation_folders_are_official(tmp_path):
    dfdc(tmp_path)
    write(tmp_path, "test/metadata.json", text='{"ttt.mp4": {"is_fake": 1}, "uuu.mp4": {"is_fake": 0}}')
    write(tmp_path, "test/ttt.mp4", "test/uuu.mp4", "validation/vvv.mp4")
    write(tmp_path, "validation/labels.csv", text="filename,label\nvvv.mp4,1\n")
    rows, _ = read(tmp_path, "dfdc")
    assert {name: row.split for name, row in rows.items()} == {
        "dfdc-fake/aaa": "train",
        "dfdc-real/bbb": "train",
        "dfdc-fake/ccc": "train",
        "dfdc-real/ddd": "train",
        "dfdc-fake/ttt": "test",
        "dfdc-real/uuu": "test",
        "dfdc-fake/vvv": "val",
    }


def test_dfdc_preview(tmp_path):
    facts = {"label": "fake", "target_id": 7, "swapped_id": 9, "set": "test", "augmentations": []}
    entries = {
        "method_A/7_9/7_9_A_001.mp4": facts,
        "method_A/7_9/again/7_9_A_001.mp4": facts | {"set": "train"},
        "original_videos/7/7_001.mp4": {"label": "real", "target_id": 7, "swapped_id": None, "set": "train"},
        "method_B/nobody.mp4": {"label": "fake", "target_id": 7, "swapped_id": None, "set": "train"},
        "method_B/gone.mp4": facts,
    }
    write(tmp_path, "dataset.json", text=json.dumps(entries))
    write(tmp_path, *(path for path in entries if "gone" not in path))
    rows, problems = read(tmp_path, "dfdc_preview")
    assert rows["method_A/7_9__7_9_A_001"].identities == ("dfdc_preview:7", "dfdc_preview:9")
    assert rows["method_A/7_9__7_9_A_001"].split == "test" and rows["method_A/7_9__7_9_A_001"].label == 1
    assert rows["original_videos/7__7_001"].identities == ("dfdc_preview:7",)
    assert len(rows) == 3
    assert "method_B/gone.mp4" in problems and "method_B/nobody.mp4" in problems


def test_a_broken_metadata_is_named(tmp_path):
    write(tmp_path, "dfdc_train_part_0/metadata.json", text='["aaa.mp4"]')
    with pytest.raises(UserError, match="dfdc_train_part_0/metadata.json"):
        read(tmp_path, "dfdc")
    with pytest.raises(UserError, match="dataset.json not found"):
        read(tmp_path, "dfdc_preview")


# --------------------------------------------------------------------------------------------------------------- UADFV


def test_uadfv(tmp_path):
    write(tmp_path, "real/0000.mp4", "real/0001.mp4", "fake/0000_fake.mp4", "fake/0007_fake.mp4", "fake/0001.mp4")
    rows, problems = read(tmp_path, "uadfv")
    assert rows["fake/0000_fake"].identities == rows["real/0000"].identities == ("uadfv:0000",)
    assert rows["fake/0000_fake"].label == 1 and rows["real/0000"].label == 0
    assert (
        "0000_fake.mp4, left out (1): fake/0001.mp4" in problems
        and "without their real video (1): 0007_fake" in problems
    )


# ------------------------------------------------------------------------------------------------------ DeeperForensics


def deeper(root):
    write(root, "manipulated_videos/end_to_end/000_M101.mp4", "manipulated_videos/end_to_end/001_W004.mp4")
    write(root, "manipulated_videos/end_to_end_level_3/000_M101.mp4")
    write(root, "source_videos/M101/light_up/happy/camera_front/M101_light_up_happy_camera_front.mp4")
    for split, names in {"train": "000_M101.mp4\n", "val": "", "test": "001_W004.mp4\n777_W009.mp4\n"}.items():
        write(root, f"lists/splits/{split}.txt", text=names)


def test_deeper_forensics_splits_and_people(tmp_path):
    deeper(tmp_path)
    rows, problems = read(tmp_path, "deeper_forensics")
    assert set(rows) == {"end_to_end/000_M101", "end_to_end/001_W004", "end_to_end_level_3/000_M101"}
    assert rows["end_to_end/000_M101"].identities == ("faceforensics:000", "deeper_forensics:M101")
    assert rows["end_to_end_level_3/000_M101"].split == "train" and rows["end_to_end/001_W004"].split == "test"
    assert "no real half of its own" in problems and "777_W009" in problems
    assert "manipulated_videos/reenact_postprocess not found" in problems


def test_deeper_forensics_reals_are_the_targets_and_sources_only_if_asked(tmp_path):
    deeper(tmp_path)
    write(tmp_path, "target_videos/000.mp4", "target_videos/001.mp4")
    rows, problems = read(tmp_path, "deeper_forensics", methods=["end_to_end", "source_videos"])
    assert rows["youtube/001"].label == 0 and rows["youtube/001"].split == "test"
    assert rows["youtube/000"].identities == ("faceforensics:000",)
    source = rows["source_videos/M101_light_up_happy_camera_front"]
    assert source.label == 0 and source.identities == ("deeper_forensics:M101",)
    assert "reenact" not in problems and "no real half" not in problems


# -------------------------------------------------------------------------------------------------------------- folder


def test_folder_methods_and_own_identities(tmp_path):
    write(
        tmp_path, "real/a.mp4", "real/trip/b.mov", "fake/c.mp4", "fake/swap/d.mp4", "fake/swap/sub/d.mp4", "fake/x.jpg"
    )
    rows, problems = read(tmp_path, "folder", name="mine")
    assert {name: row.label for name, row in rows.items()} == {
        "real/a": 0,
        "real/trip__b": 0,
        "fake/c": 1,
        "swap/d": 1,
        "swap/sub__d": 1,
    }
    assert len({row.identities for row in rows.values()}) == 5
    assert "each video counts as a person of its own" in problems and "left out (1): fake/x.jpg" in problems


def test_folder_reads_identities(tmp_path):
    write(tmp_path, "real/a.mp4", "fake/swap/d.mp4", "fake/e.mp4")
    text = "video,identities\nreal/a.mp4,anna\nfake/swap/d,anna; bert\nfake/gone.mp4,bert\n"
    write(tmp_path, "identities.csv", text=text)
    rows, problems = read(tmp_path, "folder", name="mine")
    assert rows["swap/d"].identities == ("mine:anna", "mine:bert") and rows["real/a"].identities == ("mine:anna",)
    assert "own (1): fake/e.mp4" in problems and "not there (1): fake/gone" in problems
    write(tmp_path, "identities.csv", text="file;who\n")
    with pytest.raises(UserError, match="no column video, identities"):
        read(tmp_path, "folder")


def test_folder_with_misnamed_halves(tmp_path):
    write(tmp_path, "Real/a.mp4", "fakes/b.mp4")
    with pytest.raises(UserError, match="found 'Real', expected 'real'.*found 'fakes', expected 'fake'"):
        read(tmp_path, "folder")


def test_every_layout_refuses_an_empty_root_by_name(tmp_path):
    for layout in LAYOUTS:
        with pytest.raises(UserError, match="Expected .*There is: nothing"):
            read(tmp_path, layout)
