"""All parts of a summary that can be left out, made up: for the page, the event files and the documented keys."""

import pyarrow as pa
from made_up import made_up_summary
from test_certificate_table import ITEMS
from test_certificate_table import made_up_rows as certificate_rows
from test_corruption_table import made_up_rows as corruption_rows
from test_universal_table import made_up_figures as made_up_universal
from test_whole_video_table import made_up_figures as made_up_whole_video

from robust.evaluation.attack_block import Cell
from robust.evaluation.certificate_table import certificate_figures
from robust.evaluation.codec import LOSSLESS, Channel, Sharing
from robust.evaluation.codec_table import CODEC_SCHEMA, codec_figures
from robust.evaluation.comparators import FOLDER, read_comparators
from robust.evaluation.corruption_table import corruption_figures
from robust.evaluation.export import EXPORT_SCHEMA, export_figures

MODELS = ("baseline", "defended")
SHA256 = {name: str(index) * 64 for index, name in enumerate(MODELS)}
FACTS = (*(("h264", crf) for crf in (23, 28, 35, 40)), *(("jpeg", quality) for quality in (90, 70, 50)))
CHANNELS = (LOSSLESS, *(Channel(*facts) for facts in FACTS))
PRIOR = {
    "models": SHA256, "epsilon": 2.0, "stop": 300, "threshold": 0.31, "published_seconds": 412.7,
    "validation": {"300": 0.8},
    "prior": {"iterations": 600, "stops": [300, 600], "size": 64},
    "rows": [
        {"detector": detector, "attacker": attacker, "accuracy": [14, 16], "success": success, "robust": [robust, 16],
         "seconds": seconds}
        for detector, attacker, success, robust, seconds in (
            ("plain", "PGD-20 on it", [8, 8], 0, 0.0042),
            ("plain behind the prior", "PGD-20 on the plain detector", [3, 7], 9, 11.3),
            ("plain behind the prior", "BPDA-3 through the prior", [6, 7], 4, 11.3),
            ("defended", "PGD-20 on it", [1, 7], 11, 0.0045))],
}
PROTOCOL = {
    "models": SHA256,
    "rows": [
        {"model": model, "group": group, "protocol": protocol, "epsilon": 2.0, "change": change, "success": success,
         "accuracy": [hits, 96]}
        for model in MODELS for group, protocol, change, success, hits in (
            ("ours", "PGD-40 on the margin, logit 0", 2.0, [40, 41], 8),
            ("one fault", "steps of 0.01 whatever epsilon is, no random start, last point kept", 2.0, [33, 41], 20),
            ("one fault", "every image labelled fake", 2.0, None, 50),
            ("all faults", "attack script, PGD-40", 2.55, [5, 48], 88),
            ("all faults", "test script, on JPEG copies of that PGD-40", 2.55, None, 91))],
}


def made_up_everything(storage, *, resamples=10, **facts) -> dict:
    """A summary in which nothing is null; `storage` is where the benchmarks' files are put."""
    storage.write_json(f"made-up/{FOLDER}/deep_image_prior.json", PRIOR)
    storage.write_json(f"made-up/{FOLDER}/reference_protocol.json", PROTOCOL)
    grid = corruption_rows(severities=(1, 2, 3, 4, 5))
    return made_up_summary(resamples=resamples, **{
        "codec": made_up_codec(), "smoothing": made_up_certificates(), "export": made_up_export(),
        "whole_video": made_up_whole_video(), "universal": made_up_universal(),
        "corruptions": corruption_figures(grid, MODELS, resamples=resamples, seed=0),
        "comparators": read_comparators(storage, "made-up", SHA256),
        "not_run": [{"attack": "transfer", "reason": "it is made on another checkpoint, and there is none"}], **facts})


def made_up_codec() -> dict:
    trials = [Sharing(Cell("pgd", epsilon, 20), CHANNELS) for epsilon in (4.0, 8.0)]

    def adversarial(model, epsilon, place, video):
        return None if video == 8 else 1.2 * place - 0.4 * video * (model == "baseline") - 0.2 * epsilon + 0.5

    rows = [{"model": model, "attack": "pgd", "epsilon": trial.cell.epsilon, "codec": channel.codec,
             "quality": channel.quality, "video_id": f"d/fine/{video}", "frame_index": 3, "method": "fine",
             "identities": [f"d:{video}"], "clean": 2.0 - 0.1 * place,
             "adversarial": adversarial(model, trial.cell.epsilon, place, video)}
            for model in MODELS for trial in trials for place, channel in enumerate(CHANNELS) for video in range(9)]
    table = pa.Table.from_pylist(rows, schema=CODEC_SCHEMA)
    return codec_figures(table, MODELS, trials, resamples=10, seed=0)


def made_up_certificates() -> dict:
    rows = [certificate_rows(model, item, verdicts, shares) for item in ITEMS for model, verdicts, shares in (
        ("baseline", [1, 1, 0, -1, 0, 0, 1, -1], [1, .51, .9, 0, 1, .26, .3, 0]), ("defended", [1] * 8, [.5] * 8))]
    return certificate_figures(pa.concat_tables(rows), MODELS, ITEMS, resamples=10, seed=0)


def made_up_export() -> dict:
    def rows(fall):
        return pa.Table.from_pylist([
            {"video_id": f"d/x/{video}", "frame_index": 0, "label": video % 2, "method": "x",
             "identities": [f"d:{video}"], "clean": side * 2.0, "adversarial": side * (2.0 - fall * (video % 5)), "clean_png": b"",
             "adversarial_png": b"", "largest_change": 2}
            for video in range(16) for side in (2 * (video % 2) - 1,)], schema=EXPORT_SCHEMA)

    figures = export_figures({"baseline": rows(2.0), "defended": rows(0.55)}, resamples=10, seed=0)
    return {"manifest": "evaluate/adversarial/manifest.json", "sha256": "ab" * 32, "attack": "PGD-20", "epsilon": 2.0,
            "crops": 16, "level": "frame", "models": figures}
