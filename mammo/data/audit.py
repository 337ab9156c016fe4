import pandas as pd


def audit_table(table, images):
    return pd.DataFrame({"a": [], "b": []})


def group_ids(table, overlaps):
    return list(table["roi_id"])
