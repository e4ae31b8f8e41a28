import pytest

from robust.data.rows import VideoRow, make_row, require_unique_ids, rows_to_table, table_to_rows
from robust.errors import UserError


def _row(name="000_003", method="Deepfakes", **fields):
    return make_row(
        dataset="ff", method=method, name=name, uri=f"/d/{method}/{name}.mp4", label=1, people=["0", "3"], **fields
    )


def test_rows_survive_a_table():
    rows = [_row(split="val"), _row("001_002"), _row(method="FaceSwap")]
    assert table_to_rows(rows_to_table(rows)) == rows
    assert rows_to_table([]).num_rows == 0


def test_a_table_without_a_column_is_refused_by_name():
    with pytest.raises(UserError, match="identities"):
        table_to_rows(rows_to_table([_row()]).drop_columns(["identities"]))


def test_same_file_name_under_two_methods_has_two_video_ids():
    require_unique_ids([_row(), _row(method="FaceSwap")])
    with pytest.raises(UserError, match="ff/Deepfakes/000_003"):
        require_unique_ids([_row(), _row()])


def test_identities_are_prefixed_and_not_repeated():
    row = make_row(dataset="mine", method="m", name="n", uri="u", label=1, people=["a", "b", "a"], numbered_by="theirs")
    assert row.identities == ("theirs:a", "theirs:b")


@pytest.mark.parametrize("wrong", [{"label": 2}, {"split": "tset"}, {"identities": ()}])
def test_a_row_refuses_what_no_video_can_be(wrong):
    fields = {"video_id": "d/m/n", "uri": "u", "label": 0, "dataset": "d", "method": "m", "identities": ("d:a",)}
    with pytest.raises(ValueError, match="d/m/n"):
        VideoRow(**fields | wrong)
