def check_rois(t, i, d):
    d.mkdir(parents=True, exist_ok=True)
    return {"success": True}


def check_patches(s, p, d):
    d.mkdir(parents=True, exist_ok=True)
    return {"success": True}
