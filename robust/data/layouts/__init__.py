"""Layouts: how each data set lies on disk after it is unpacked, turned into rows.

A layout is a function (tree: FileTree, dataset: DatasetConfig) -> LayoutResult. A new data set is one file and one line
in `LAYOUTS`. A layout only says what the data set says: labels, methods, people, official lists. Splits are made in
robust/data/splits.py.
"""

from robust.data.layouts.celeb_df import celeb_df
from robust.data.layouts.deeper_forensics import deeper_forensics
from robust.data.layouts.dfdc import dfdc, dfdc_preview
from robust.data.layouts.faceforensics import faceforensics
from robust.data.layouts.folder import folder
from robust.data.layouts.matching import LayoutResult
from robust.data.layouts.uadfv import uadfv

LAYOUTS = {
    "celeb_df_v1": celeb_df,
    "celeb_df_v2": celeb_df,
    "faceforensics": faceforensics,
    "dfdc": dfdc,
    "dfdc_preview": dfdc_preview,
    "uadfv": uadfv,
    "deeper_forensics": deeper_forensics,
    "folder": folder,
}

__all__ = ["LAYOUTS", "LayoutResult"]
