"""The 57 subjects of MMLU by category and subcategory, as grouped by its authors."""

from src.errors import DataError

CATEGORIES: dict[str, dict[str, str]] = {
    "STEM": {
        "math": "abstract_algebra college_mathematics elementary_mathematics high_school_mathematics "
        "high_school_statistics",
        "physics": "astronomy college_physics conceptual_physics high_school_physics",
        "biology": "college_biology high_school_biology",
        "chemistry": "college_chemistry high_school_chemistry",
        "computer science": "college_computer_science computer_security high_school_computer_science machine_learning",
        "engineering": "electrical_engineering",
    },
    "humanities": {
        "philosophy": "formal_logic logical_fallacies moral_disputes moral_scenarios philosophy world_religions",
        "history": "high_school_european_history high_school_us_history high_school_world_history prehistory",
        "law": "international_law jurisprudence professional_law",
    },
    "social sciences": {
        "economics": "econometrics high_school_macroeconomics high_school_microeconomics",
        "geography": "high_school_geography",
        "politics": "high_school_government_and_politics public_relations security_studies us_foreign_policy",
        "psychology": "high_school_psychology professional_psychology",
        "culture": "human_sexuality sociology",
    },
    "other (business, health, misc.)": {
        "health": "anatomy clinical_knowledge college_medicine human_aging medical_genetics nutrition "
        "professional_medicine virology",
        "business": "business_ethics management marketing",
        "other": "global_facts miscellaneous professional_accounting",
    },
}


def subjects_of(category: str | None) -> frozenset[str] | None:
    """The subjects of a category, a subcategory or a single subject; None stands for all.

    "other" is the category of 14 subjects, not its subcategory of three. Raises DataError.
    """
    if category is None:
        return None
    wanted = category.strip().lower().replace("_", " ")
    known: dict[str, frozenset[str]] = {}
    for name, subcategories in CATEGORIES.items():
        for subcategory, names in subcategories.items():
            known |= {subject.replace("_", " "): frozenset([subject]) for subject in names.split()}
            known[subcategory] = frozenset(names.split())
        members = frozenset(" ".join(subcategories.values()).split())
        known |= {name.lower(): members, name.lower().split(" (")[0]: members}
    if wanted not in known:
        raise DataError(
            f"MMLU has no category or subject {category!r}. Categories: "
            f"{', '.join(name.split(' (')[0] for name in CATEGORIES)}; or a subcategory or subject name."
        )
    return known[wanted]
