"""Parameters of the stand-in world's domains: people, cameras and pictures of each.

All values are frozen: they were calibrated, and recorded results depend on them; see `docs/calibration.md`. Differences
between two domains make the gap; differences within a domain make supervised training harder too.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Palette = dict[str, int]
"""Colours as RRGGBB with their shares in percent."""

Spread = tuple[float, float]
"""Mean and standard deviation."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Parameters of a domain. Numbers without a unit are probabilities (fractions) or standard deviations."""

    grammar: str  # of folders and file names (`reproduce.data.spelling`)
    cameras: int
    sequences: int  # recording sessions; frame numbers restart in each
    session: int  # length of a session, frames
    images: tuple[float, float, int, int]  # per identity: mean, standard deviation of the logarithm, least, most
    visits: tuple[float, int, int]  # cameras that see an identity: mean, least, most
    on_top: float  # additional images of a test identity
    bystander_images: float  # mean images per distractor
    empty: float  # probability that a distractor's box is empty
    junk: float  # mean number of boxes around parts of a test person

    upper: Palette
    lower: Palette
    shoes: Palette
    bags: Palette
    hair: Palette
    skin: Palette
    dye: float  # standard deviation of a garment's colour around the palette's
    long_sleeves: float
    shorts: float
    skirt: float
    long_hair: float
    rucksack: float
    satchel: float
    hat: float
    striped: float
    logo: float
    jacket: float
    hem: Spread  # length below the hip, metres

    # camera
    walls: Palette
    floors: Palette
    tint: tuple[float, float, float]  # gain of red, green, blue
    tint_spread: float  # between cameras, log
    saturation: Spread
    hue: float  # rotation of all colours about grey, degrees
    mixing: float  # between colour channels
    tone: Spread  # log gamma
    haze: Spread  # black level
    blur: Spread  # width of an edge, image heights
    noise: float

    # pose and view
    elevation: Spread  # of the cameras, degrees
    axis: Spread  # angle between the way towards a camera and its line of sight, degrees
    away: float  # probability of walking away from the camera
    stroll: float  # deviation of the azimuth from the way, degrees

    # detection
    shift: float  # box heights
    sink: float  # downward offset of people in the box, box heights
    zoom: Spread  # size of the person in the box, log
    aspect: Spread  # widening of the person, log
    cut: float  # probability of a box around a part of the person
    above: float = 0.7  # probability that this is the upper part

    # occlusion
    occluded: float  # probability of occlusion
    obstacles: tuple[float, float, float] = (0.6, 0.2, 0.2)  # shares of people, posts and low things
    post: float = 0.02  # half-width, image heights
    furniture: Palette = field(default_factory=lambda: {"5a5a5a": 100})  # of posts and low things

    # illumination
    gain: Spread  # log2
    warmth: Spread  # from blue to red, log
    gamma: Spread  # log
    shade: float  # probability of a cast shadow
    dark: tuple[float, float] = (0.2, 0.55)  # range of the fraction of light that it removes

    # special to a few domains
    even: bool = False  # every camera takes the same number of images of a person
    labelled: bool = True  # False: training images only, without identities
    clutter: float = 1.0  # posts, doors, kerbs and texture of the background; 0 is plain
    hue_spread: float = 0.0  # between cameras, degrees
    daylight: float = 0.0  # variation of light between recording sessions, relative to that between images


# fmt: off
MARKET = Statistics(
    grammar="market", cameras=6, sequences=6, session=71_000, images=(17.2, 0.55, 2, 72), visits=(4.5, 2, 6),
    on_top=4.5, bystander_images=7.0, empty=0.4, junk=5.1,
    upper={"ebebeb": 20, "1a1a1c": 14, "c72429": 10, "eb99ad": 9, "f0d140": 8, "409457": 9, "5c99db": 10,
           "24337a": 8, "7a4794": 6, "9e9e9e": 6},
    lower={"1f1f24": 30, "425c8f": 24, "7a99c7": 12, "ad9975": 12, "808080": 10, "e6e0d9": 7, "b33d42": 5},
    shoes={"e6e6e0": 40, "1f1f1f": 30, "73523d": 20, "bf3333": 10},
    bags={"1f1f21": 35, "b8292e": 20, "2e478c": 20, "8c6b47": 15, "d98033": 10},
    hair={"1a1414": 80, "422b1f": 20}, skin={"e0b394": 80, "c29170": 20}, dye=0.1,
    long_sleeves=0.30, shorts=0.40, skirt=0.18, long_hair=0.38, rucksack=0.3, satchel=0.3, hat=0.25,
    striped=0.36, logo=0.3, jacket=0.14, hem=(0.04, 0.05),
    walls={"6b7a5c": 35, "b8b3a3": 35, "5c666e": 30}, floors={"a8a399": 50, "8f8575": 30, "7a8f6b": 20},
    tint=(1.01, 1.0, 0.99), tint_spread=0.012, saturation=(1.03, 0.03), hue=3.0, mixing=0.010, tone=(-0.03, 0.03),
    haze=(0.038, 0.004), blur=(0.0105, 0.0015), noise=0.01,
    elevation=(3.0, 1.5), axis=(0.0, 8.0), away=0.0, stroll=6.0,
    shift=0.006, sink=0.07, zoom=(-0.25, 0.02), aspect=(0.15, 0.02), cut=0.0, above=0.9,
    occluded=0.45, obstacles=(0.0, 1.0, 0.0), post=0.03,
    furniture={"b8292e": 25, "2e478c": 25, "d9a033": 25, "3f8f5c": 25},
    gain=(0.08, 0.04), warmth=(0.08, 0.012), gamma=(-0.28, 0.03), shade=0.03, dark=(0.25, 0.5),
    clutter=0.4,
)
DUKE = Statistics(
    grammar="duke", cameras=8, sequences=1, session=127_000, images=(23.5, 0.50, 6, 110), visits=(3.2, 2, 6),
    on_top=0.0, bystander_images=8.5, empty=0.0, junk=0.0,
    upper={"1a1a1c": 20, "525459": 12, "212b5c": 12, "9e9ea1": 9, "99262e": 9, "2e6638": 9, "7d4f2e": 9,
           "38619e": 9, "dedede": 6, "b8862e": 5},
    lower={"38476b": 28, "1a1a1f": 26, "a38c61": 16, "616166": 14, "7d94b8": 12, "733338": 4},
    shoes={"242121": 45, "664733": 25, "d9d9d9": 30},
    bags={"1c1c1f": 34, "334a80": 22, "8f2429": 18, "707570": 14, "b3803d": 12},
    hair={"241a14": 45, "5c3d24": 35, "b38f57": 20}, skin={"e6b89e": 65, "805740": 35}, dye=0.08,
    long_sleeves=0.85, shorts=0.12, skirt=0.09, long_hair=0.40, rucksack=0.25, satchel=0.3, hat=0.26,
    striped=0.32, logo=0.26, jacket=0.18, hem=(0.10, 0.10),
    walls={"70665c": 40, "66665e": 30, "7d7872": 30}, floors={"85807d": 50, "7a6b63": 30, "737566": 20},
    tint=(0.99, 1.0, 1.01), tint_spread=0.012, saturation=(0.93, 0.03), hue=-3.0, mixing=0.020, tone=(0.06, 0.03),
    haze=(0.052, 0.005), blur=(0.0115, 0.0015), noise=0.012,
    elevation=(56.0, 5.0), axis=(65.0, 8.0), away=1.0, stroll=6.0,
    shift=0.006, sink=-0.09, zoom=(-0.32, 0.02), aspect=(-0.12, 0.02), cut=0.0, above=0.3,
    occluded=0.35, obstacles=(1.0, 0.0, 0.0),
    gain=(-0.28, 0.04), warmth=(-0.08, 0.012), gamma=(0.28, 0.03), shade=0.03, dark=(0.2, 0.4),
)
    # A campus in winter and spring: 15 cameras in and out of doors, four days from morning to afternoon.
MSMT17 = Statistics(
    grammar="msmt17", cameras=15, sequences=12, session=97_000, images=(31.3, 0.55, 6, 170), visits=(3.8, 2, 10),
    on_top=0.0, bystander_images=8.0, empty=0.0, junk=0.0,
    upper={"1c1d21": 22, "3b3f47": 13, "8a1f26": 11, "e2e2de": 9, "2b3d6b": 10, "a39a86": 9, "c9586a": 7,
           "5d6b3f": 7, "6e4a36": 6, "d0a93c": 6},
    lower={"22242b": 36, "2f4372": 30, "5d7299": 12, "6c6862": 10, "a08f73": 8, "4a2f33": 4},
    shoes={"2a2626": 42, "e4e4e0": 26, "7a5638": 20, "4a5c8c": 12},
    bags={"1d1e22": 38, "27406e": 18, "8d2530": 16, "6f7a63": 14, "c7a277": 14},
    hair={"18130f": 85, "3d2a1e": 15}, skin={"e4bb9b": 85, "c4946f": 15}, dye=0.18,
    long_sleeves=0.94, shorts=0.03, skirt=0.06, long_hair=0.36, rucksack=0.34, satchel=0.28, hat=0.24,
    striped=0.34, logo=0.3, jacket=0.26, hem=(0.13, 0.10),
    walls={"8d8478": 30, "6f7780": 30, "a7a29a": 25, "5e6b57": 15},
    floors={"8f8b84": 45, "a79d8e": 30, "6f7378": 25},
    tint=(0.98, 1.02, 1.04), tint_spread=0.012, saturation=(0.3, 0.02), hue=0.0, mixing=0.015, tone=(0.05, 0.03),
    haze=(0.32, 0.006), blur=(0.018, 0.0015), noise=0.025,
    elevation=(6.0, 1.0), axis=(50.0, 5.0), away=0.06, stroll=5.0,
    shift=0.005, sink=0.0, zoom=(-0.22, 0.02), aspect=(0.0, 0.02), cut=0.0,
    occluded=0.1, obstacles=(0.2, 0.4, 0.4),
    furniture={"7a2f7a": 40, "2f7a7a": 30, "4a4a4a": 30},
    gain=(-0.4, 0.04), warmth=(0.0, 0.015), gamma=(0.66, 0.02), shade=0.03,
    hue_spread=1.5, daylight=0.15,
)
    # A pair of cameras over a campus walk: soft, washed out, from above.
CUHK03 = Statistics(
    grammar="cuhk03", cameras=2, sequences=1, session=90_000, images=(9.7, 0.06, 6, 10), visits=(2.0, 2, 2),
    on_top=0.0, bystander_images=5.0, empty=0.0, junk=0.0,
    upper={"e4e3df": 22, "23252b": 17, "88a5cf": 11, "b23a3f": 9, "6b6f76": 10, "d9a9b4": 8, "3f6b52": 8,
           "2c3a70": 8, "d8c47a": 7},
    lower={"2b2d36": 32, "44598c": 28, "8d8a84": 14, "b5a07a": 14, "dcd6cc": 6, "6d4a52": 6},
    shoes={"dcdcd8": 36, "27272a": 36, "8a6a48": 16, "3f6aa8": 12},
    bags={"212228": 36, "3a5a94": 20, "8a3a3f": 16, "7d7f6b": 14, "cfa25c": 14},
    hair={"1b1512": 88, "46301f": 12}, skin={"e6bf9f": 82, "c89a75": 18}, dye=0.12,
    long_sleeves=0.38, shorts=0.30, skirt=0.10, long_hair=0.40, rucksack=0.42, satchel=0.28, hat=0.2,
    striped=0.34, logo=0.3, jacket=0.08, hem=(0.06, 0.06),
    walls={"9a9588": 50, "7f8a86": 50}, floors={"b0a898": 60, "94988f": 40},
    tint=(1.06, 1.03, 0.88), tint_spread=0.03, saturation=(0.60, 0.06), hue=-20.0, mixing=0.015, tone=(-0.1, 0.04),
    haze=(0.09, 0.01), blur=(0.018, 0.003), noise=0.012,
    elevation=(24.0, 1.5), axis=(0.0, 8.0), away=0.0, stroll=8.0,
    shift=0.006, sink=0.0, zoom=(0.0, 0.02), aspect=(0.0, 0.02), cut=0.01,
    occluded=0.06,
    gain=(0.0, 0.05), warmth=(0.0, 0.02), gamma=(0.0, 0.05), shade=0.03, even=True,
)
    # A game engine: people from all sides before plain backgrounds, in clean light; no passers-by and no detector.
PERSONX = Statistics(
    grammar="personx", cameras=6, sequences=1, session=90_000, images=(24.0, 0.0, 24, 42), visits=(6.0, 6, 6),
    on_top=18.0, bystander_images=7.0, empty=0.0, junk=0.0,
    upper={"d92b2b": 14, "2b62d9": 14, "f2f2f2": 13, "17181c": 13, "2fa84f": 11, "f0b429": 10, "8b3fc1": 8,
           "e8743b": 9, "4fc3d9": 8},
    lower={"1c1f2a": 26, "2f55a4": 26, "b79b6c": 16, "7d8188": 14, "e6e2d8": 8, "8c2f36": 10},
    shoes={"141416": 40, "f0f0ee": 34, "7a4a2a": 26},
    bags={"17181c": 40, "b3252b": 30, "2b4fa0": 30},
    hair={"17120e": 45, "54331f": 30, "c79a55": 25}, skin={"efc4a4": 60, "8d5a3c": 40}, dye=0.025,
    long_sleeves=0.50, shorts=0.28, skirt=0.16, long_hair=0.42, rucksack=0.18, satchel=0.14, hat=0.16,
    striped=0.22, logo=0.20, jacket=0.18, hem=(0.07, 0.07),
    walls={"9fb4c8": 40, "c8c2b4": 30, "8fa58c": 30}, floors={"b4b4b4": 50, "9c9486": 50},
    tint=(1.02, 1.00, 0.98), tint_spread=0.030, saturation=(1.12, 0.05), hue=12.0, mixing=0.0, tone=(-0.05, 0.10),
    haze=(0.0, 0.0), blur=(0.002, 0.001), noise=0.0,
    elevation=(9.0, 3.0), axis=(0.0, 60.0), away=0.5, stroll=75.0,
    shift=0.0, sink=0.0, zoom=(0.0, 0.0), aspect=(0.0, 0.0), cut=0.0,
    occluded=0.0,
    gain=(0.0, 0.10), warmth=(0.0, 0.015), gamma=(0.0, 0.05), shade=0.0,
    even=True, clutter=0.0,
)
    # Street videos of many towns: very different cameras, held low, crowded, with unchecked boxes.
LUPERSON = Statistics(
    grammar="luperson", cameras=40, sequences=1, session=45_000, images=(20.0, 0.60, 3, 90), visits=(1.2, 1, 2),
    on_top=0.0, bystander_images=5.0, empty=0.0, junk=0.0,
    upper={"1b1c1f": 20, "e8e6e2": 16, "6d7076": 10, "28396b": 9, "a52a2f": 8, "d8b59a": 6, "4b6a48": 7,
           "7fa3cf": 8, "d98aa2": 6, "8a5f3c": 5, "e0c04a": 5},
    lower={"1f2026": 30, "3d5484": 26, "7c94bb": 12, "8e8a83": 10, "b39f78": 10, "e2dfd6": 6, "7c2f3a": 6},
    shoes={"e6e5e0": 38, "222224": 36, "75533a": 16, "b8383c": 10},
    bags={"1c1c20": 40, "6e4a30": 18, "9a2b33": 14, "3a507f": 14, "cdb28a": 14},
    hair={"1a1411": 55, "47301f": 27, "b08a54": 12, "9a9690": 6}, skin={"e5bb9a": 66, "bd8c66": 20, "74492f": 14},
    dye=0.07, long_sleeves=0.55, shorts=0.22, skirt=0.18, long_hair=0.44, rucksack=0.20, satchel=0.34, hat=0.14,
    striped=0.22, logo=0.14, jacket=0.18, hem=(0.09, 0.09),
    walls={"7d7468": 25, "8f9499": 25, "5c5f66": 20, "a59a86": 15, "5f7a5c": 15},
    floors={"8a8782": 40, "75706b": 30, "a39c90": 30},
    tint=(1.02, 1.00, 0.98), tint_spread=0.060, saturation=(1.00, 0.15), hue=0.0, mixing=0.020, tone=(0.0, 0.18),
    haze=(0.04, 0.035), blur=(0.012, 0.008), noise=0.015,
    elevation=(4.0, 4.0), axis=(0.0, 30.0), away=0.5, stroll=25.0,
    shift=0.028, sink=0.0, zoom=(0.0, 0.07), aspect=(0.0, 0.07), cut=0.14,
    occluded=0.26,
    gain=(0.0, 0.14), warmth=(0.0, 0.03), gamma=(0.0, 0.08), shade=0.20,
    labelled=False, hue_spread=14.0,
)
# fmt: on
