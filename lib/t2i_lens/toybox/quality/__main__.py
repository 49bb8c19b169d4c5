"""Measure the toybox: `make quality` writes `quality.json`, contact sheets and the model card.

Shown in: book/toybox.md
"""

import json

from t2i_lens.models import profiles
from t2i_lens.toybox.card import write_card
from t2i_lens.toybox.judge import load_judge
from t2i_lens.toybox.quality import sheets
from t2i_lens.toybox.quality.drawing import drawing_quality
from t2i_lens.toybox.quality.judge import judge_quality
from t2i_lens.toybox.quality.text_encoder import bos_attention, text_quality
from t2i_lens.toybox.quality.tokens import token_quality
from t2i_lens.toybox.training.export import TOYBOX, load_pair
from t2i_lens.toybox.world.captions import caption


def main() -> None:
    """Measure everything and write the figures, the sheets and the card."""
    profile = profiles.get("toybox")
    pipe, judge = profiles.load(profile), load_judge()
    drawing, failures = drawing_quality(pipe, judge, count=128)
    quality = {
        "weights": profiles.fingerprint(profile),
        "judge": judge_quality(judge),
        "text_encoder": text_quality(load_pair(pipe), pipe) | bos_attention(pipe),
        "drawing": drawing,
        "tokens": token_quality(pipe, judge, range(2)),
    }
    (TOYBOX / "quality.json").write_text(json.dumps(quality, indent=1) + "\n")
    sheets.contact_sheet(pipe).save(TOYBOX / "contact_sheet.png", optimize=True)
    sheets.world_sheet().save(TOYBOX / "world.png", optimize=True)
    captions = [caption(scene) for scene, _ in failures]
    sheet = sheets.captioned_sheet([picture for _, picture in failures], captions)
    sheet.save(TOYBOX / "failures.png", optimize=True)
    sheets.concept_sheet(pipe).save(TOYBOX / "concepts.png", optimize=True)
    write_card(pipe, quality)
    print(json.dumps(quality, indent=1))


if __name__ == "__main__":
    main()
