import pytest

from robust.config import DataConfig, DatasetConfig
from robust.data.dataset import limit_videos, load_dataset, load_rows, select_methods
from robust.data.rows import make_row
from robust.errors import ConfigError, UserError


def folder_set(root, people=30):
    """A folder data set: one real video a person, and fakes of two kinds between neighbours."""
    lines = ["video,identities"]
    for p in range(people):
        for path, who in (
            (f"real/{p:03}.mp4", f"p{p}"),
            (f"fake/{('swap', 'morph')[p % 4 > 1]}/{p:03}.mp4", f"p{p};p{p ^ 1}"),
        ):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).touch()
            lines.append(f"{path},{who}")
    (root / "identities.csv").write_text("\n".join(lines))
    return root


def rows_of(**counts):
    return [
        make_row(
            dataset="d", method=method, name=f"{n:03}", uri="u", label=int(method != "real"), people=[f"{method}{n}"]
        )
        for method, count in counts.items()
        for n in range(count)
    ]


def test_all_data_sets_become_one_table_with_splits(tmp_path):
    sets = [DatasetConfig(layout="folder", uri=str(folder_set(tmp_path / name)), name=name) for name in ("one", "two")]
    dataset = load_dataset(DataConfig(datasets=sets), seed=24)
    assert len(dataset.rows) == len({row.video_id for row in dataset.rows}) == 120
    assert [row.video_id for row in dataset.rows] == sorted(row.video_id for row in dataset.rows)
    people = {
        split: {p for row in dataset.rows if row.split == split for p in row.identities}
        for split in ("train", "val", "test")
    }
    assert all(people.values()) and sum(map(len, people.values())) == 60
    assert dataset.problems == {"one": [], "two": []}
    assert set(dataset.split_report["videos"]["test"]["fake"]) == {"one/swap", "one/morph", "two/swap", "two/morph"}


def test_methods_choose_fakes_and_keep_the_real_videos():
    rows = rows_of(real=3, swap=2, morph=2)
    assert {row.method for row in select_methods(rows, ["swap"])} == {"real", "swap"}
    assert {row.method for row in select_methods(rows, [])} == {"real"}
    assert len(select_methods(rows, None)) == 7
    with pytest.raises(UserError, match="no video of method swop in d; there are morph, real, swap"):
        select_methods(rows, ["swop"])


def test_naming_a_real_method_leaves_the_other_real_ones_out():
    rows = rows_of(real=3, swap=2) + [make_row(dataset="d", method="tube", name="1", uri="u", label=0, people=["x"])]
    assert {row.method for row in select_methods(rows, ["swap", "tube"])} == {"tube", "swap"}


def test_max_videos_is_even_over_methods_and_spread_over_names():
    rows = rows_of(real=40, swap=20, morph=2)
    chosen = limit_videos(list(reversed(rows)), 20)
    assert chosen == limit_videos(rows, 20) and len(chosen) == 20
    names = {
        method: [row.video_id[-3:] for row in chosen if row.method == method] for method in ("real", "swap", "morph")
    }
    assert {method: len(found) for method, found in names.items()} == {"real": 9, "swap": 9, "morph": 2}
    assert names["real"][0] == "000" and names["real"][-1] >= "035"
    assert len(limit_videos(rows, 1)) == 1 and limit_videos(rows, None) == rows and limit_videos(rows, 500) == rows


def test_configuration_mistakes_are_named(tmp_path):
    one = DatasetConfig(layout="folder", uri=str(folder_set(tmp_path)))
    with pytest.raises(ConfigError, match="data.datasets is empty"):
        load_rows([])
    with pytest.raises(ConfigError, match=r"datasets\[1\].layout is 'celeb_df'; known: celeb_df_v1"):
        load_rows([one, DatasetConfig.model_construct(layout="celeb_df", uri="x", name=None)])
    with pytest.raises(ConfigError, match="'folder' is used twice"):
        load_rows([one, one])


def test_what_the_configuration_leaves_out_is_counted(tmp_path):
    one = DatasetConfig(layout="folder", uri=str(folder_set(tmp_path)), methods=["swap"], max_videos=20)
    rows, problems = load_rows([one])
    assert len(rows) == 20 and {row.method for row in rows} == {"real", "swap"}
    assert problems["folder"] == ["40 of 60 videos not used, by `methods` and `max_videos`"]
