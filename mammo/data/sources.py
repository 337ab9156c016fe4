"""temporary"""
import hashlib, io, re, zipfile
from dataclasses import dataclass
from pathlib import Path
import numpy as np
import pandas as pd
from PIL import Image
from mammo.records import ROI_SCHEMA, conform
from mammo.storage import read_array, read_table, write_array, write_table
@dataclass(frozen=True)
class RoiSet:
    table: pd.DataFrame
    images: np.ndarray
def load_rois(config, root):
    z = zipfile.ZipFile(root / config.raw); rows=[]; imgs=[]
    for n in sorted(z.namelist()):
        m = re.match(r"MIAS_ROIs/(train|val|test)/(Tumor|Normal) \((\d+)\)\.png", n)
        if m:
            a = np.array(Image.open(io.BytesIO(z.read(n))))
            rows.append(dict(roi_id=f"{m[1]}/{m[2]} ({m[3]})", source="mias_rois", film_id=None, patient_id=None, label=int(m[2]=="Tumor"), abnormality=None, severity=None, tissue=None, x_px=None, y_px=None, radius_px=None, published_split=m[1], sha256=hashlib.sha256(a.tobytes()).hexdigest(), synthetic=False)); imgs.append(a)
    return RoiSet(conform(pd.DataFrame(rows), ROI_SCHEMA, "rois"), np.stack(imgs))
def write_rois(r, out):
    write_table(out / "rois.parquet", r.table); write_array(out / "images.npy", r.images)
def read_rois(out):
    return RoiSet(read_table(out / "rois.parquet"), read_array(out / "images.npy"))
