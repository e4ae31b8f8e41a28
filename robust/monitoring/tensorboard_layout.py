"""TensorBoard's page Custom Scalars: what one looks at first, baseline, defended and all trials in the same charts.

Tags are those of jobs/train.py, of Ray Tune (`ray/tune/...`) and of robust/evaluation/tensorboard.py; where these
have no such tag, a chart stays empty. A test compares them.
"""

from __future__ import annotations

CHARTS: dict[str, dict[str, list[str]]] = {
    "Validation": {
        "AUC, clean": [r"^validation/auc$", r"^ray/tune/auc$"],
        "AUC under PGD": [r"^validation/robust_auc$", r"^ray/tune/robust_auc$"],
        "attack success": [r"^validation/attack_success$", r"^ray/tune/attack_success$"],
    },
    "Training": {
        "loss": [r"^loss/total$", r"^ray/tune/loss$"],
        "parts of the loss": [r"^loss/(?!total$)"],
        "epsilon, 0-255 units": [r"^epsilon$"],
        "learning rate": [r"^learning rate$"],
        "images a second": [r"^images per second$"],
        "share of time that waits for data": [r"^data wait share$"],
        "collapse probe: AUC before and after the epoch": [r"^probe/probe_(before|after)$"],
    },
    "Test (steps are 10 x epsilon)": {
        "video AUC, worst case": [r"^robust_auc/worst/video/all$"],
        "fakes called real, worst case, frames at logit 0": [r"^fake_to_real/worst/frame/all$"],
        "reals called fake, worst case, frames at logit 0": [r"^real_to_fake/worst/frame/all$"],
    },
}
"""Regular expressions on tags, a chart; one line for each run and tag that they find."""


def layout_event():
    """The protocol buffer that the page reads; tensorboard's own function for it wants TensorFlow."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.plugins.custom_scalar.layout_pb2 import Category, Chart, Layout, MultilineChartContent
    from tensorboard.plugins.custom_scalar.metadata import CONFIG_SUMMARY_TAG, PLUGIN_NAME

    categories = [
        Category(
            title=title,
            chart=[Chart(title=name, multiline=MultilineChartContent(tag=tags)) for name, tags in charts.items()],
        )
        for title, charts in CHARTS.items()
    ]
    layout = Layout(category=categories).SerializeToString()
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME))
    tensor = TensorProto(dtype="DT_STRING", string_val=[layout], tensor_shape=TensorShapeProto())
    return Event(summary=Summary(value=[Summary.Value(tag=CONFIG_SUMMARY_TAG, tensor=tensor, metadata=metadata)]))
