"""robust/data/people.py against what the layouts call the people in their videos."""

import pytest

from robust.config import DatasetConfig
from robust.data.layouts import LAYOUTS
from robust.data.people import count_unnamed, is_named, note_of
from robust.data.tree import FileTree


def rows_of(folder, layout, files, **texts):
    for path in files:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"video")
    for path, text in texts.items():
        (folder / path.replace("_", ".", 1)).write_text(text)
    tree = FileTree.open(str(folder))
    return LAYOUTS[layout](tree, DatasetConfig(layout=layout, uri=str(folder), name="own")).rows


@pytest.mark.parametrize("table, unnamed", [(None, 3), ("video,identities\nreal/a.mp4,anna\nfake/b.mp4,anna;bert\n", 1)])
def test_a_folder_names_people_in_its_table_alone(tmp_path, table, unnamed):
    texts = {} if table is None else {"identities_csv": table}
    rows = rows_of(tmp_path, "folder", ["real/a.mp4", "real/c.mp4", "fake/b.mp4"], **texts)
    assert count_unnamed(vars(row) for row in rows) == unnamed
    assert ("anna" in {name.partition(":")[2] for row in rows for name in row.identities if is_named(name)}) == (table is not None)


def test_dfdc_names_nobody_and_celeb_df_everybody(tmp_path):
    facts = '{"x.mp4": {"label": "REAL"}, "y.mp4": {"label": "FAKE", "original": "x.mp4"}}'
    rows = rows_of(tmp_path, "dfdc", ["x.mp4", "y.mp4"], metadata_json=facts)
    assert len(rows) == 2 and count_unnamed(vars(row) for row in rows) == 2
    assert is_named("celeb_df:id3") and is_named("dfdc_preview:17")


def test_the_note_counts_videos_with_faces():
    def video(person, found):
        return {"identities": ["d:anna", person], "frames_found": found}

    assert note_of([video("d:bert", 3), video("d:video:real/x", 0)]) == ""
    assert note_of([video("d:bert", 3), video("d:video:real/x", 2)]).startswith("The people in 1 of 2 test videos are not known")
