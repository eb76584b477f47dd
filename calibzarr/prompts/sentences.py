"""The sentences of the general prompts.

A name in braces stands for a word of that list; ``:plural`` asks for its plural. ``a/an`` becomes
the article that fits the word after it.
"""

SCENES = {
    "people": (
        "a/an {age} {role}",
        "a/an {age} {role} {person_action}",
        "a/an {origin} {role} with {feature}, {person_action} {outdoors} {time}",
        "a/an {child} {person_action} {outdoors}",
        "the face of a/an {age} {role} with {feature}, looking {emotion}",
        "a/an {emotion} {role} wearing {clothing}, {person_action} {indoors}",
        "{number} {role:plural} {outdoors} in {region} {weather}",
        "a/an {origin} {role} and a/an {age} {role} {person_action} together on a street in {city}",
    ),
    "animals": (
        "a/an {animal_look} {animal}",
        "a/an {animal} {animal_action} {outdoors}",
        "{number} {animal:plural} {outdoors} {time}",
        "a/an {animal_look} {animal} wearing {costume}, {animal_action}",
        "a/an {animal} and a/an {animal} sitting side by side {indoors}",
        "a/an {animal_look} {animal} {animal_action} in {region} {weather}",
    ),
    "objects": (
        "a/an {material} {object}",
        "a/an {colour} {object} on {surface}",
        "a/an {object_look} {object} with {pattern}, standing {indoors}",
        "{number} {colour} {object:plural} arranged in a circle on {surface}",
        "a/an {material} {object} {relation} a/an {colour} {object}",
        "a/an {material} {object} {indoors}, {lamps}",
    ),
    "food": (
        "{number} fresh {fruit:plural}",
        "{dish} {dishware}",
        "{number} ripe {fruit:plural} on {surface}",
        "{dish} {dishware}, with {beside_food} on the side",
        "a street vendor selling {dish} in {city} {time}",
        "a/an {fruit} cut in half beside {number_more} whole {fruit:plural} {dishware}",
    ),
    "vehicles": (
        "a/an {colour} {vehicle}",
        "a/an {vehicle_look} {vehicle} {vehicle_place}",
        "a/an {colour} {vehicle} with {pattern}, {vehicle_place} {weather}",
        "{number_more} {vehicle:plural} of different colours in {city} {time}",
        "a/an {vehicle_look} {colour} {vehicle} {vehicle_place} in {region} {time}",
    ),
    "buildings": (
        "a/an {building_look} {building}",
        "a/an {building_look} {building} {outdoors}",
        "a/an {building} with {building_part} and {building_part} in {region} {weather}",
        "the inside of a/an {building_look} {building}, {lamps}",
        "a miniature model of a/an {building} made of {made_of}, on {surface}",
        "a/an {building_look} {building} in {city} {time}, a/an {colour} {vehicle} in front of it",
    ),
    "plants": (
        "a/an {plant} {time}",
        "a/an {plant} {plant_detail}",
        "a/an {colour} flower in a/an {material} vase on {surface}",
        "{number} {plant:plural} growing {outdoors} {weather}",
        "a/an {plant} {plant_detail}, with {a_small_animal} sleeping beside it",
    ),
    "fantasy": (
        "a/an {creature} {fantasy_place}",
        "a/an {creature} {creature_action}",
        "a/an {creature} made of {made_of}, {creature_action}",
        "{number_more} tiny {creature:plural} living inside a/an {material} {object}",
        "a/an {creature_look} {creature} meeting a/an {role} {fantasy_place}",
    ),
    "landscapes": (
        "a/an {landscape} in {region}",
        "a street in {city} {time} {weather}",
        "a/an {landscape} {time}, with {landscape_detail}",
        "an aerial view of {city} {weather}",
        "a/an {landscape} in {region} {weather}, with {landscape_detail} and {landscape_detail}",
    ),
    "writing": (
        'a/an {sign} that says "{text}"',
        'a/an {sign} with the words "{text}" in {lettering}',
        'a/an {animal} holding a/an {colour} sign that says "{text}"',
        'the words "{text}" written in {lettering} on a/an {building_look} wall in {city}',
        'a/an {origin} {role} pointing at a/an {sign} that reads "{text}" {outdoors}',
    ),
    "abstract": (
        "overlapping {colour} and {colour} {form:plural}",
        "a pattern of small {colour} {form:plural} on a/an {colour} background",
        "a/an {colour} {form} {relation} a/an {colour} {form}",
        "the feeling of being {emotion}, shown only with {colour} and {colour} {form:plural}",
    ),
}

FRAMES = (
    "{scene}",
    "{artwork} of {scene}",
    "{photograph} of {scene}",
    "{scene}, {medium}",
    "{photograph} of {scene}, {camera}",
    "{artwork} of {scene}, {detail}, {mood}",
    "{scene}, {composition}, {light}",
    "{photograph} of {scene}, {composition}, {light}, {camera}",
    "{artwork} of {scene}, {composition}, in shades of {colour} and {colour}",
    "{scene}, {light}, {mood}, {detail}, {medium}",
    "{scene}. The picture has {light}, a/an {mood} and a touch of {colour}.",
    "{scene}, {composition}",
)
