"""The branches of WordNet 3.0 that the medical word list is drawn from, as data: synsets by offset in ``data.noun``.

Not among them: what WordNet calls pictures (radiogram, mammogram), as such a word names every image of a radiology set
and so would be no negative label; procedures, specialities and persons; microorganisms.
"""

from __future__ import annotations

from typing import NamedTuple


class Branch(NamedTuple):
    """What a branch holds: its roots and all below them.

    Attributes:
        lexicographer_files: those whose synsets are taken; what lies below a root in another one is left out.
        roots: offset and first lemma.
        pruned: roots of what is left out, unless another path leads to it.
    """

    lexicographer_files: frozenset[str]
    roots: dict[str, str]
    pruned: dict[str, str]


BRANCHES = {
    "anatomy": Branch(
        # Not noun.animal and noun.plant: fins, feathers, leaves.
        frozenset({"noun.body"}),
        {
            "00006484": "cell",
            "05220461": "body part",
            "05237755": "body covering",
            "05263850": "body substance",
            "05267345": "tissue",
        },
        {"05256862": "hairdo", "05261404": "facial hair"},
    ),
    "disease": Branch(
        frozenset({"noun.state", "noun.process", "noun.body", "noun.object", "noun.event"}),
        {
            "05244239": "plaque",
            "09230768": "calculus",
            "09454925": "tartar",
            "13533470": "pathologic process",
            "14042423": "asphyxia",
            "14044174": "hyperthermia",
            "14044454": "hypothermia",
            "14046202": "pregnancy",
            "14051917": "pathological state",
            "14052403": "disorder",
            "14063633": "dilatation",
            "14299637": "symptom",
            "14373246": "thrombus",
            "14373407": "embolus",
            "14501726": "abnormality",
            "14507951": "obstruction",
            "14509712": "poisoning",
        },
        {"14253124": "animal disease", "14276936": "plant disease"},
    ),
    "instrument": Branch(
        frozenset({"noun.artifact"}),
        {
            "02821202": "bedpan",
            "02895606": "breathing device",
            "02921292": "bur",
            "02951170": "cannula",
            "02984469": "catheter",
            "02987047": "cautery",
            "03043423": "clinical thermometer",
            "03094159": "contact",
            "03111899": "corrective",
            "03141823": "crutch",
            "03171635": "defibrillator",
            "03175604": "dental appliance",
            "03176238": "dentist's drill",
            "03177708": "depressor",
            "03225458": "dosemeter",
            "03232158": "drain",
            "03232923": "drape",
            "03237639": "dressing",
            "03283413": "emesis basin",
            "03381231": "forceps",
            "03430091": "gauze",
            "03450734": "gown",
            "03507658": "heart-lung machine",
            "03571280": "inhaler",
            "03582096": "intrauterine device",
            "03663910": "life-support system",
            "03665083": "ligature",
            "03739693": "medical instrument",
            "03850053": "operating microscope",
            "03850492": "operating table",
            "03870290": "pacemaker",
            "03957420": "plaster",
            "03966751": "plexor",
            "04044955": "radiotherapy equipment",
            "04260589": "sonograph",
            "04274985": "sphygmomanometer",
            "04282494": "splint",
            "04314735": "stent",
            "04336792": "stretcher",
            "04367205": "suture",
            "04367746": "swab",
            "04388162": "tampon",
            "04470741": "transdermal patch",
            "04576002": "wheelchair",
            "04609651": "X-ray machine",
        },
        {"02731629": "aqualung", "03979492": "polygraph", "04161010": "searing iron", "04251144": "snorkel"},
    ),
    "substance": Branch(
        frozenset({"noun.substance", "noun.artifact", "noun.body"}),
        {
            "02724207": "antiseptic",
            "03247620": "drug",
            "04462835": "tracer",
            "04517535": "vaccine",
            "05407119": "hormone",
            "14601829": "amino acid",
            "14728724": "protein",
            "14732946": "enzyme",
            "14800277": "coenzyme",
            "14899687": "contrast medium",
            "15001212": "radiopaque dye",
            "15027189": "antibody",
            "15034074": "toxin",
            "15037339": "antigen",
            "15057744": "steroid",
            "15089258": "vitamin",
        },
        {"03248958": "drug of abuse"},
    ),
}
