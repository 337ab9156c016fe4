from mammo.records import *


def make_split(table, groups, config):
    return conform(
        pd.DataFrame({"roi_id": table["roi_id"], "group_id": groups, "split": table["published_split"]}),
        SPLIT_SCHEMA,
        "split",
    )
