import random
from collections import Counter

import pytest

from robust.config import SplitConfig
from robust.data.rows import VideoRow
from robust.data.splits import _quota, assign_splits, connected_groups
from robust.errors import ConfigError, UserError


def video(name, label, people, *, method=None, split=None, dataset="set"):
    method = method or ("fake" if label else "real")
    return VideoRow(f"{dataset}/{method}/{name}", f"/{name}", label, dataset, method, tuple(people), split)


def random_set(seed, *, people=60, fakes=90, reals=2, group=6, dataset="set"):
    """Real videos of each person, and fakes between people of the same group of `group`."""
    rng = random.Random(seed)
    rows = [video(f"r{p}_{n}", 0, [f"p{p}"], dataset=dataset) for p in range(people) for n in range(reals)]
    for number in range(fakes):
        target = rng.randrange(people)
        first = target - target % group
        source = rng.choice([p for p in range(first, min(first + group, people)) if p != target])
        rows.append(video(f"f{number}", 1, [f"p{target}", f"p{source}"], method=f"kind{number % 3}", dataset=dataset))
    return rows


def people_of(rows, split):
    return {person for row in rows if row.split == split for person in row.identities}


def assert_disjoint(rows):
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not people_of(rows, one) & people_of(rows, other), (one, other)


def share(rows, split):
    return sum(row.split == split for row in rows) / len(rows)


# -------------------------------------------------------------------------------------------------------- disjointness


@pytest.mark.parametrize("seed", range(25))
def test_no_split_shares_a_person_with_another(seed):
    """T9, over graphs from many small groups to one that holds everybody, with and without an official list."""
    rng = random.Random(seed)
    rows = random_set(
        seed, people=rng.choice([30, 48, 78]), fakes=rng.randint(60, 300), group=rng.choice([2, 3, 6, 80])
    )
    if seed % 2:
        listed = set(rng.sample([row.video_id for row in rows], 8))
        rows = [row.with_split("test" if row.video_id in listed else "train") for row in rows]
    try:
        split, report = assign_splits(rows, SplitConfig(), seed)
    except UserError:
        assert seed % 2  # a random list may name a person of every group; a split of ours is always found
        return
    assert_disjoint(split)
    assert [row.video_id for row in split] == [row.video_id for row in rows]
    counted = sum(n for labels in report["videos"].values() for methods in labels.values() for n in methods.values())
    assert counted == len(rows)
    assert sum(report["excluded"].values()) == sum(row.split == "excluded" for row in split)
    assert report["identities"] == {name: len(people_of(split, name)) for name in ("train", "val", "test")}


def test_groups_of_linked_people_stay_whole_and_nothing_is_lost():
    rows = random_set(1, group=3, people=90, fakes=200)
    split, report = assign_splits(rows, SplitConfig(), 24)
    where = {row.video_id: row.split for row in split}
    for group in connected_groups(rows):
        members = {where[row.video_id] for row in rows if set(row.identities) <= set(group.people)}
        assert len(members) == 1
    assert report["excluded"] == {}
    for part, fraction in {"test": 0.2, "val": 0.8 * 0.15}.items():
        assert abs(share(split, part) - fraction) < 0.03
        assert len(report["videos"][part]["fake"]) == 3  # all kinds of fakes in every split


def test_connected_groups_follow_chains():
    rows = [
        video("a", 1, ["p0", "p1"]),
        video("b", 1, ["p1", "p2"]),
        video("c", 0, ["p3"]),
        video("d", 1, ["p4", "p3"]),
    ]
    assert [group.people for group in connected_groups(rows)] == [("p0", "p1", "p2"), ("p3", "p4")]


@pytest.mark.parametrize("group", [3, 60])
@pytest.mark.parametrize("seed", [0, 24])
def test_the_same_seed_gives_the_same_split_in_any_order(group, seed):
    rows = random_set(5, group=group, fakes=200)
    expected = {row.video_id: row.split for row in assign_splits(rows, SplitConfig(), seed)[0]}
    shuffled = random.Random(9).sample(rows, len(rows))
    assert {row.video_id: row.split for row in assign_splits(shuffled, SplitConfig(), seed)[0]} == expected
    other = {row.video_id: row.split for row in assign_splits(rows, SplitConfig(), seed + 1)[0]}
    assert other != expected


# ------------------------------------------------------------------------------------------------------ one big group


def test_one_group_of_everybody_is_divided_by_person_and_said_so():
    rows = random_set(2, people=60, group=60, fakes=1500, reals=8)
    assert len(connected_groups(rows)) == 1
    split, report = assign_splits(rows, SplitConfig(), 24)
    assert_disjoint(split)
    assert any("60 people into 1 group" in note for note in report["notes"])
    assert set(report["excluded"]) == {
        "shares a person with the test split",
        "shares a person with the validation split",
    }
    assert report["identities"]["test"] == 12
    excluded = [row for row in split if row.split == "excluded"]
    assert excluded and all(len(row.identities) == 2 for row in excluded)  # videos of one person are never lost
    for part in ("train", "val", "test"):
        assert len(report["videos"][part]["fake"]) == 3 and report["videos"][part]["real"]
    for row in excluded:  # nothing is left out that could have stayed
        homes = {
            part for part in ("train", "val", "test") for person in row.identities if person in people_of(split, part)
        }
        assert len(homes) > 1


def test_a_big_group_among_single_people_is_divided_too():
    """As in Celeb-DF v2: one group of celebrities with all the fakes, many people with one real video each."""
    rows = random_set(2, people=40, group=40, fakes=800, reals=5)
    rows += [video(f"y{n}", 0, [f"y{n}"], method="YouTube") for n in range(200)]
    split, report = assign_splits(rows, SplitConfig(), 24)
    assert_disjoint(split)
    assert all(report["videos"][part]["fake"] for part in ("train", "val", "test"))


@pytest.mark.parametrize("count", [4, 8, 10, 13, 59])
@pytest.mark.parametrize("fractions", [[0.2] * 5, [0.15, 0.85], [0.2, 0.8], [1 / 3] * 3])
def test_quotas_use_everybody_and_leave_no_part_without_a_pair(count, fractions):
    numbers = Counter(_quota(count, fractions))
    assert numbers.total() == count
    if count >= 2 * len(fractions):
        assert min(numbers[part] for part in range(len(fractions))) >= 2


# ---------------------------------------------------------------------------------------------------- official lists


def with_official_test(rows, people):
    return [row.with_split("test" if set(row.identities) <= people else "train") for row in rows]


def test_the_official_test_list_is_the_test_split_and_its_people_are_nowhere_else():
    official = {f"p{n}" for n in range(9)}
    rows = with_official_test(random_set(3, group=6), official)  # p6..p8 are linked to p9..p11
    split, report = assign_splits(rows, SplitConfig(), 24)
    before = {row.video_id for row in rows if row.split == "test"}
    assert {row.video_id for row in split if row.split == "test"} == before
    assert_disjoint(split)
    crossing = [row for row in rows if row.split == "train" and official & set(row.identities)]
    assert report["excluded"]["shares a person with the test split"] == len(crossing) > 0
    assert report["mode"] == "official"


def test_an_official_list_that_names_everybody_says_what_to_do():
    rows = random_set(4)
    seen = set()
    marked = []
    for row in rows:  # the first video of each person is test
        fresh = row.label == 0 and row.identities[0] not in seen
        seen.add(row.identities[0])
        marked.append(row.with_split("test" if fresh or row.label and len(marked) % 9 == 0 else "train"))
    with pytest.raises(UserError, match="no fake video in train.*data.splits.official_test=false"):
        assign_splits(marked, SplitConfig(), 24)
    split, report = assign_splits(marked, SplitConfig(official_test=False), 24)
    assert report["mode"] == "fractions"
    assert_disjoint(split)


def test_official_train_val_and_test_are_kept():
    rows = random_set(6, group=3, people=60)
    home = {f"p{n}": ("test", "val", "train")[0 if n < 12 else 1 if n < 24 else 2] for n in range(60)}
    rows = [row.with_split(home[row.identities[0]]) for row in rows]
    split, report = assign_splits(rows, SplitConfig(), 24)
    assert split == rows and report["excluded"] == {}


def test_videos_outside_the_official_lists_get_splits_of_their_own():
    """DeepFakeDetection beside FaceForensics++, or a second data set without a list."""
    rows = with_official_test(random_set(3), {f"p{n}" for n in range(12)})
    second = [
        VideoRow(row.video_id, row.uri, row.label, row.dataset, row.method, tuple(f"q{p}" for p in row.identities))
        for row in random_set(8, dataset="second")
    ]
    split, report = assign_splits(rows + second, SplitConfig(), 24)
    assert_disjoint(split)
    for part in ("train", "val", "test"):
        assert {key.split("/")[0] for key in report["videos"][part]["fake"]} == {"set", "second"}
    kept = [row for row in split if row.dataset == "set" and row.split == "test"]
    assert len(kept) == sum(row.split == "test" for row in rows)


def test_people_of_two_data_sets_are_the_same_people():
    """DeeperForensics puts faces on FaceForensics++'s videos: its fakes of official test targets are left out."""
    rows = with_official_test(random_set(3), {f"p{n}" for n in range(12)})
    rows += [video(f"d{n}", 1, [f"p{n}", f"actor{n}"], dataset="deeper") for n in range(60)]
    split, _ = assign_splits(rows, SplitConfig(), 24)
    assert_disjoint(split)
    assert {row.split for row in split if row.dataset == "deeper" and int(row.identities[0][1:]) < 12} == {"excluded"}


def test_people_of_official_training_videos_stay_in_training():
    """Fakes of another data set with the people of an official train list go there; they do not pull them into test."""
    home = {f"p{n}": ("test", "val", "train")[0 if n < 12 else 1 if n < 24 else 2] for n in range(60)}
    rows = [row.with_split(home[row.identities[0]]) for row in random_set(6, group=3)]
    more = [video(f"d{n}", 1, [f"p{n}"], dataset="deeper") for n in range(24, 60)]
    more += random_set(9, dataset="third", group=60)  # p0..p59 again, none of them in a list
    split, _ = assign_splits(rows + more, SplitConfig(), 24)
    assert_disjoint(split)
    assert split[: len(rows)] == rows
    assert {row.split for row in split if row.dataset == "deeper"} == {"train"}


# --------------------------------------------------------------------------------------------------------- other modes


@pytest.mark.parametrize("group", [3, 60])
def test_folds_test_every_person_once(group):
    rows = with_official_test(random_set(3, group=group, fakes=400), {"p0", "p1"})
    tested, excluded_people = Counter(), Counter()
    for fold in range(5):
        split, report = assign_splits(rows, SplitConfig(folds=5, fold=fold), 24)
        assert_disjoint(split)
        assert report["mode"] == "folds" and report["fold"] == fold
        tested.update(row.video_id for row in split if row.split == "test")
        excluded_people.update(people_of(split, "test"))
    assert set(excluded_people.values()) == {1} and len(excluded_people) == 60
    assert set(tested.values()) == {1}
    never = {row.video_id for row in rows} - set(tested)
    if group == 3:
        assert not never
    assert all(row.label == 1 for row in rows if row.video_id in never)  # only fakes that link two folds


def test_a_fold_that_does_not_exist_is_a_config_error():
    with pytest.raises(ConfigError, match="data.splits.fold is 5"):
        assign_splits(
            random_set(3),
            SplitConfig.model_construct(
                folds=5, fold=5, official_test=True, test_fraction=0.2, val_fraction=0.15, use_everything=False
            ),
            24,
        )


def test_use_everything_trains_on_all_that_is_not_test():
    rows = with_official_test(random_set(3), {f"p{n}" for n in range(12)})
    split, report = assign_splits(rows, SplitConfig(use_everything=True), 24)
    assert {row.split for row in split} == {"train", "test"}
    assert sum(row.split == "test" for row in split) == sum(row.split == "test" for row in rows)
    assert any("no validation split" in note for note in report["notes"])
    split, _ = assign_splits(random_set(3), SplitConfig(use_everything=True, test_fraction=0), 24)
    assert {row.split for row in split} == {"train"}


def test_too_few_people_are_told():
    rows = [video("a", 0, ["p0"]), video("b", 1, ["p0", "p1"]), video("c", 0, ["p1"])]
    with pytest.raises(UserError, match="can not be made disjoint by person: .*Add videos"):
        assign_splits(rows, SplitConfig(), 24)


def test_real_videos_alone_are_split_where_no_fakes_are_needed():
    rows = [video(f"v{n}", 0, [f"p{n}"]) for n in range(20)]
    with pytest.raises(UserError, match="no fake video in train, no fake video in val"):
        assign_splits(rows, SplitConfig(), 24)
    split, report = assign_splits(rows, SplitConfig(), 24, fakes_needed=False)
    assert {row.split for row in split} == {"train", "val", "test"} and not report["excluded"]
    with pytest.raises(UserError, match="no real video in train"):
        assign_splits([video(f"v{n}", 1, [f"p{n}"]) for n in range(20)], SplitConfig(), 24, fakes_needed=False)
