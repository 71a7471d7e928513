"""Drawing an insect, seen from above, from its traits."""

import cmath
from colorsys import hsv_to_rgb
from math import radians

import numpy as np

from projects.bioscan_clip.sample.canvas import Canvas, Colour, Lobe, Points, mix, mould

Traits = dict[str, float]

_BLACK: Colour = (0.04, 0.03, 0.03)


def draw_insect(canvas: Canvas, traits: Traits, rng: np.random.Generator) -> None:
    """Draw one specimen.

    Parameters
    ----------
    canvas : Canvas
        What is drawn on.
    traits : dict of str to float
        See ``TRAITS``.
    rng : numpy.random.Generator
        Decides how limbs and wings are held.
    """
    head, thorax, abdomen = _body(traits)
    body, accent = _body_colours(traits)
    legs = mix(mix(body, _BLACK, 0.3), accent, traits["leg_accent"])
    _draw_legs(canvas, thorax, traits, legs, rng)
    _draw_antennae(canvas, head, traits, legs, rng)
    _draw_tail(canvas, abdomen, traits, legs, rng)
    _draw_abdomen(canvas, abdomen, thorax, traits)
    if traits["wing_case"] > 0.5:
        _draw_wing_cases(canvas, thorax, abdomen, traits)
    else:
        _draw_free_wings(canvas, thorax, traits, rng)
    _draw_thorax(canvas, thorax, traits, rng)
    _draw_head(canvas, head, traits)


def _body(traits: Traits) -> tuple[Lobe, Lobe, Lobe]:
    head_length, thorax_length = traits["head_length"], traits["thorax_length"]
    neck = 0.5 - head_length
    rear = neck - thorax_length
    head = Lobe(neck - 0.02, head_length + 0.02, *_halves(traits["head_width"]), 0.4, 0.9)
    thorax = Lobe(rear - 0.02, thorax_length + 0.04, *_halves(traits["thorax_width"]), 0.5, 0.8)
    start = rear + traits["waist"]
    abdomen = Lobe(
        start,
        -0.5 - start,
        *_halves(traits["abdomen_width"]),
        traits["abdomen_peak"],
        traits["abdomen_taper"],
    )
    return head, thorax, abdomen


def _draw_legs(
    canvas: Canvas, thorax: Lobe, traits: Traits, colour: Colour, rng: np.random.Generator
) -> None:
    for pair, angle in enumerate((50, 98, 140)):
        length = 0.65 * traits["leg_length"] * (traits["hind_leg"] if pair == 2 else 1)
        for mirrored in (False, True):
            angles = angle + rng.normal(0, 9) + np.array([0, 32 * (pair - 0.7), 55 * (pair - 0.9)])
            angles[1:] += rng.normal(0, 8, 2)
            steps = length * np.array([0.45, 0.40, 0.28]) * np.exp(1j * np.radians(angles))
            joints = thorax.at(0.75 - 0.25 * pair, 0.6) + np.concatenate([[0], np.cumsum(steps)])
            joints = joints.conj() if mirrored else joints
            for part, thickness in enumerate((1.3, 0.8, 0.5)):
                width = traits["leg_width"] * thickness
                canvas.stroke(joints[part : part + 2], width, colour)


def _draw_antennae(
    canvas: Canvas, head: Lobe, traits: Traits, colour: Colour, rng: np.random.Generator
) -> None:
    u = np.linspace(0, 1, 9)
    for mirrored in (False, True):
        spread = traits["antenna_spread"] + rng.normal(0, 6)
        curl = rng.normal(0.35, 0.15)
        path = head.at(0.8, 0.45) + traits["antenna_length"] * u * np.exp(
            1j * (radians(spread) * (0.5 + 0.5 * u) + curl * u**2)
        )
        path = path.conj() if mirrored else path
        canvas.stroke(path, 0.012, colour)
        if traits["antenna_club"] > 0.003:
            width = traits["antenna_club"]
            club = Lobe(path[-3], path[-1] - path[-3] + 0.02, width, width)
            canvas.fill(club.outline(), colour)


def _draw_tail(
    canvas: Canvas, abdomen: Lobe, traits: Traits, colour: Colour, rng: np.random.Generator
) -> None:
    """Draw an ovipositor or cerci."""
    if traits["tail"] < 0.05:
        return
    tip = abdomen.base + 0.97 * abdomen.axis
    spread = 0.25 if traits["antenna_spread"] > 35 else 0.02
    for side in (-spread, spread):
        end = tip - traits["tail"] * cmath.exp(1j * (side + rng.normal(0, 0.04)))
        canvas.stroke(np.array([tip, end]), 0.013, colour)


def _draw_abdomen(canvas: Canvas, abdomen: Lobe, thorax: Lobe, traits: Traits) -> None:
    body, accent = _body_colours(traits)
    petiole = np.array([thorax.base + 0.2 * thorax.axis, abdomen.base + 0.25 * abdomen.axis])
    canvas.stroke(petiole, 0.04, body)
    mould(canvas, abdomen, body)
    count = round(traits["abdomen_bands"])
    for band in range(count):
        start = (band + 0.5) / (count + 0.5)
        if traits["abdomen_band_width"] > 0.05:
            end = start + traits["abdomen_band_width"] / (count + 0.5)
            canvas.fill(abdomen.band(start, end), accent)
    for joint in np.linspace(0.15, 0.9, 6):
        canvas.fill(abdomen.band(joint, joint + 0.015), _BLACK, 0.35)


def _draw_wing_cases(canvas: Canvas, thorax: Lobe, abdomen: Lobe, traits: Traits) -> None:
    """Draw fore wings that lie on the abdomen, and the scutellum between them."""
    width = 0.53 * traits["abdomen_width"]
    start = thorax.base + 0.12 * thorax.axis
    axis = 1.02 * (abdomen.base + abdomen.axis - start)
    wing = Lobe(start, axis, 0.002, width, traits["abdomen_peak"], 0.7 * traits["abdomen_taper"])
    for mirrored in (False, True):
        _draw_wing(canvas, wing, traits, mirrored, veins=4)
    if traits["scutellum"] > 0.02:
        size = traits["scutellum"]
        plate = Lobe(start + 0.02, -size * 1.3, size * 0.55, size * 0.55, 0.2, 1.0)
        body, accent = _body_colours(traits)
        mould(canvas, plate, mix(body, accent, 0.35 + traits["thorax_accent"]))


def _draw_free_wings(
    canvas: Canvas, thorax: Lobe, traits: Traits, rng: np.random.Generator
) -> None:
    pairs = round(traits["wing_pairs"])
    for pair in reversed(range(pairs)):
        length, width = traits["fore_wing_length"], 0.5 * traits["fore_wing_width"]
        angle, peak = traits["fore_wing_angle"], traits["fore_wing_peak"]
        if pair == 1:
            length *= traits["hind_wing_length"]
            width *= traits["hind_wing_width"]
            angle, peak = 0.62 * angle, 0.6 * peak
        opening = rng.normal(0, 5)
        for mirrored in (False, True):
            turn = radians(max(angle + opening + rng.normal(0, 3), 3.0))
            # The left edge of a left wing is its trailing edge, which bulges more.
            axis = -length * cmath.exp(-1j * turn)
            base = complex(thorax.at(0.65 - 0.3 * pair, 0.55))
            wing = Lobe(base, axis, 1.35 * width, 0.65 * width, peak, 0.85)
            _draw_wing(canvas, wing, traits, mirrored, veins=round(traits["wing_veins"]))


def _draw_wing(canvas: Canvas, wing: Lobe, traits: Traits, mirrored: bool, veins: int) -> None:
    def side(points: Points) -> Points:
        return points.conj() if mirrored else points

    opacity = traits["wing_opacity"]
    ground = hsv_to_rgb(traits["wing_hue"], traits["wing_saturation"], traits["wing_value"])
    if traits["wing_case"] > 0.5:
        ground = mix(ground, _body_colours(traits)[0], 0.55)
        for share in (1.0, 0.85, 0.65, 0.4):
            canvas.lift(side(wing.outline(share)), np.sqrt(1.05 - share**2) * wing.right * 3.4)
    # Marks are dark on pale wings and bright on dark ones.
    mark = mix(_body_colours(traits)[1], _BLACK, min(3 * traits["wing_value"] - 1, 0.85))
    strength = 0.35 + 0.6 * opacity
    canvas.fill(side(wing.outline()), ground, opacity)
    if traits["wing_margin"] > 0.02:
        inner = wing.outline(1 - traits["wing_margin"])
        canvas.fill(side(np.concatenate([wing.outline(), inner[:1], inner[::-1]])), mark, strength)
    if traits["wing_band_width"] > 0.015:
        for band in range(round(traits["wing_bands"])):
            start = traits["wing_band_start"] + 0.24 * band
            canvas.fill(side(wing.band(start, start + traits["wing_band_width"])), mark, strength)
    count = round(traits["wing_spots"])
    for spot in range(count):
        u = 0.2 + 0.65 * (spot + 0.5) / count
        row = traits["wing_spot_row"] * (1 if spot % 2 else -1)
        canvas.fill(side(wing.spot(u, row, traits["wing_spot_size"])), mark, strength)
    for v in np.linspace(-0.85, 0.85, veins):
        path = wing.at(np.linspace(0.02, 0.96, 10), v * np.linspace(0.6, 1.0, 10))
        canvas.stroke(side(path), 0.006, mix(ground, _BLACK, 0.75), 0.3 + 0.25 * (opacity < 0.5))


def _draw_thorax(canvas: Canvas, thorax: Lobe, traits: Traits, rng: np.random.Generator) -> None:
    body, accent = _body_colours(traits)
    colour = mix(body, accent, traits["thorax_accent"])
    if traits["hair"] > 0:
        roots = thorax.at(rng.uniform(0.05, 0.95, 40), rng.choice([-0.8, 0.8], 40))
        middle = thorax.base + 0.5 * thorax.axis
        ends = roots + 0.09 * traits["hair"] * np.exp(1j * np.angle(roots - middle))
        for hair in np.stack([roots, ends], axis=1):
            canvas.stroke(hair, 0.006, mix(colour, accent, 0.4), 0.8)
    mould(canvas, thorax, colour)
    if traits["thorax_stripes"] > 0.02:
        for v in (-0.5, 0.0, 0.5):
            u = np.linspace(0.12, 0.85, 6)
            edges = [thorax.at(u, v + traits["thorax_stripes"]), thorax.at(u[::-1], v)]
            stripe = mix(accent, _BLACK, 0.9 * (traits["thorax_accent"] > 0.3))
            canvas.fill(np.concatenate(edges), stripe)


def _draw_head(canvas: Canvas, head: Lobe, traits: Traits) -> None:
    body, accent = _body_colours(traits)
    colour = mix(body, accent, traits["head_accent"])
    if traits["rostrum"] > 0.02:
        front = head.base + 0.8 * head.axis
        canvas.stroke(np.array([front, front + traits["rostrum"]]), 0.05, colour)
    mould(canvas, head, colour)
    eye_colour = hsv_to_rgb(max(traits["eye_hue"], 0.0), 0.8 * (traits["eye_hue"] > 0), 0.3)
    size = 0.5 * traits["eye_size"] * traits["head_width"]
    for side in (-1, 1):
        centre = complex(head.at(0.55, 0.75 * side))
        eye = Lobe(centre - 0.8 * size, 1.6 * size, 0.6 * size, 0.6 * size)
        mould(canvas, eye, eye_colour)


def _halves(width: float) -> tuple[float, float]:
    return width / 2, width / 2


def _body_colours(traits: Traits) -> tuple[Colour, Colour]:
    body = hsv_to_rgb(traits["body_hue"], traits["body_saturation"], traits["body_value"])
    return body, hsv_to_rgb(traits["accent_hue"], 0.75, traits["accent_value"])
