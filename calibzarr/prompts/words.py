"""The words of the general prompts: what is shown, where, when and how."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in " ".join(text.split()).split(";") if word.strip())


WORDS = {
    # people
    "age": _words("""
        young; elderly; middle-aged; tall; freckled; smiling; tattooed; elegant; barefoot
    """),
    "role": _words("""
        woman; man; nurse; baker; firefighter; farmer; astronaut; ballet dancer; carpenter;
        teacher; violinist; street musician; fisherman; scientist; surgeon; potter; blacksmith;
        chess player; mountain climber; swimmer; boxer; skateboarder; librarian; mechanic;
        tailor; beekeeper; gardener; pilot; sailor; judge; florist; photographer; cyclist;
        barista; architect; shepherd; goalkeeper; monk
    """),
    "child": _words("girl; boy; toddler; little girl; little boy; schoolchild"),
    "origin": _words("""
        Nigerian; Japanese; Mexican; Indian; Norwegian; Brazilian; Egyptian; Korean; Turkish;
        Peruvian; Ethiopian; Irish; Vietnamese; Moroccan; Polish; Samoan; Iranian; Chinese;
        Greek; Kenyan; Mongolian; Inuit; Italian; Indonesian
    """),
    "clothing": _words("""
        a long {colour} coat; a/an {colour} silk dress; a striped shirt; a/an {colour} apron; a
        woollen jumper; an embroidered kimono; a leather jacket; a/an {colour} turban; a wide
        straw hat; round glasses; a patterned headscarf; a wrinkled linen suit; muddy {colour}
        boots; a/an {colour} raincoat; a knitted {colour} scarf; dungarees
    """),
    "person_action": _words("""
        reading a newspaper; drinking tea; laughing out loud; looking over one shoulder;
        carrying a basket of {fruit:plural}; repairing a bicycle; writing a letter; playing the
        accordion; holding {a_small_animal}; blowing soap bubbles; waving at the viewer; dancing
        with closed eyes; eating noodles from a bowl; painting at an easel; tying a shoelace;
        juggling three {fruit:plural}; holding {a_colour} umbrella; listening to old headphones;
        unfolding a large map; feeding pigeons; stretching both arms; blowing out a candle
    """),
    "emotion": _words("""
        joyful; thoughtful; surprised; tired but content; proud; worried; curious; calm;
        determined; amused; nostalgic; shy; furious; relieved
    """),
    "feature": _words("""
        curly hair; grey hair in a bun; long braids; a shaved head; deep wrinkles; short red
        hair; a fringe; bright green eyes; paint on both hands; a small scar on the chin
    """),
    # animals
    "animal": _words("""
        fox; tiger; elephant; barn owl; hedgehog; giraffe; border collie; tabby cat; horse;
        octopus; penguin; chameleon; hummingbird; sea turtle; polar bear; red panda; flamingo;
        snow leopard; squirrel; frog; peacock; goat; otter; dragonfly; wolf; koala; raven;
        donkey; rabbit; zebra; camel; pug; parrot; jellyfish; snail; highland cow; orangutan;
        kangaroo; crab; badger
    """),
    "animal_action": _words("""
        sleeping; running at full speed; staring into the camera; yawning; jumping over a
        puddle; hiding behind a rock; walking along a wall; shaking off water; sitting perfectly
        still; looking up at the sky; playing with a/an {colour} ball; peeking out of a/an
        {material} box; searching for food; following a butterfly
    """),
    "a_small_animal": _words("""
        a kitten; a puppy; a white rabbit; a hen; a guinea pig; a tortoise; a parrot; a lamb
    """),
    "animal_look": _words("""
        fluffy; old; tiny; wet; sleepy; enormous; spotted; muddy; playful; alert; snow-covered
    """),
    "costume": _words("""
        a knitted {colour} hat; a tiny crown; a/an {colour} bow tie; an astronaut suit; a
        wizard's robe; a chef's hat; old aviator goggles; a raincoat; a suit of armour; a/an
        {colour} backpack
    """),
    # objects
    "object": _words("""
        teapot; alarm clock; typewriter; violin; umbrella; suitcase; chair; lantern; globe;
        vase; pocket watch; telescope; rotary telephone; bookshelf; lamp; bicycle; guitar; chess
        piece; key; pair of scissors; mirror; camera; bottle; candle; ladder; rocking horse;
        compass; sewing machine; gramophone; toy robot; hourglass; bucket; mug; notebook; kite;
        anvil
    """),
    "material": _words("""
        wooden; glass; brass; marble; ceramic; copper; leather; paper; steel; crystal; clay;
        bamboo; concrete; ice; felt; gold; rusty iron; transparent plastic; stained glass; woven
        straw
    """),
    "colour": _words("""
        red; blue; green; yellow; orange; purple; pink; white; black; turquoise; grey; brown;
        crimson; olive green; pale blue; ivory; emerald; indigo; mustard yellow; silver
    """),
    "pattern": _words("""
        polka dots; thin stripes; a floral pattern; geometric tiles; a checked pattern; tiny
        stars; zigzag lines; peeling paint; delicate engravings; paint splashes
    """),
    "surface": _words("""
        a wooden table; a windowsill; a marble counter; a pile of old books; a velvet cushion; a
        workbench; a mossy stone; a white background; a checked tablecloth; a sandy beach; a
        reflective black surface; a Persian carpet; a concrete floor; a shelf full of jars
    """),
    # food
    "fruit": _words("""
        apple; pear; lemon; orange; mango; fig; peach; pomegranate; plum; coconut; pineapple;
        melon
    """),
    "dish": _words("""
        ramen with a soft egg; vegetable curry; pancakes with syrup; fresh sushi; paella; tacos;
        borscht with sour cream; dumplings; pizza with basil; chocolate cake; croissants;
        strawberry ice cream; a cheeseburger and fries; falafel with salad; roast chicken;
        porridge with berries; injera with lentils; spaghetti with tomato sauce; macarons;
        grilled fish; pho with herbs; blueberry muffins; shakshuka; cheese and grapes; rice with
        black beans
    """),
    "dishware": _words("""
        in a blue bowl; on a white plate; on a banana leaf; in a cast-iron pan; on a wooden
        board; on a silver tray; in a paper box; in a chipped {colour} dish; in a glass dish; on
        a picnic blanket; in a clay pot
    """),
    "beside_food": _words("""
        a glass of red wine; a cup of black coffee; a folded napkin; chopsticks; half a lemon; a
        jug of water; a bunch of fresh mint; scattered crumbs; a small vase of daisies
    """),
    # vehicles
    "vehicle": _words("""
        steam locomotive; sports car; motorcycle; hot-air balloon; fishing boat; double-decker
        bus; tractor; helicopter; sailing ship; tram; pickup truck; submarine; camper van;
        biplane; scooter; fire engine; rickshaw; cable car; kayak; excavator; racing bicycle;
        container ship; taxi; delivery van; zeppelin; snowmobile; spaceship; ice cream truck
    """),
    "vehicle_look": _words("""
        vintage; rusty; brand-new; dusty; abandoned; futuristic; hand-painted; toy; overloaded;
        half-restored; 1950s
    """),
    "vehicle_place": _words("""
        at the edge of a cliff; in front of a row of old houses; near a harbour; beside a lake;
        under a stone bridge; in the middle of an empty square; between tall dunes; on a gravel
        road; next to a sunflower field; on a rooftop; in a junkyard; on a long bridge
    """),
    # buildings
    "building": _words("""
        lighthouse; castle; windmill; mosque; cathedral; log cabin; pagoda; greenhouse;
        skyscraper; farmhouse; railway station; library; opera house; petrol station; treehouse;
        stone bridge; temple; tower; factory; igloo; monastery; observatory; corner shop; water
        mill; town hall; block of flats; theatre; houseboat; palace; school
    """),
    "building_look": _words("""
        Gothic; Art Deco; brutalist; ruined; half-timbered; ivy-covered; whitewashed; Baroque;
        modernist; crooked; crumbling; solar-powered; red-brick; snow-covered; abandoned;
        brightly painted; upside-down
    """),
    "building_part": _words("""
        a spiral staircase; tall arched windows; a/an {colour} door; a copper roof; two round
        towers; balconies full of flowers; a glass dome; carved columns; broken windows; a clock
        above the gate
    """),
    # plants
    "plant": _words("""
        oak tree; sunflower; cactus; bonsai tree; rose; fern; lotus flower; mushroom; orchid;
        palm tree; tulip; dandelion; maple tree; pumpkin; lavender bush; water lily; thistle;
        cherry tree; poppy; baobab tree; succulent; snowdrop; pine tree; olive tree
    """),
    "plant_detail": _words("""
        covered in dew; bending in the wind; in full bloom; with falling leaves; dusted with
        frost; growing through cracked asphalt; wrapped in fairy lights; casting a long shadow;
        surrounded by bees; with glowing veins; reflected in still water; losing its last leaves
    """),
    # fantasy
    "creature": _words("""
        dragon; unicorn; mermaid; phoenix; griffin; forest spirit; giant; goblin; stone golem;
        fairy; centaur; sea serpent; friendly robot; clockwork owl; alien diplomat; ghost
        knight; minotaur; cloud whale; two-headed wolf; wizard; witch; vampire; living
        scarecrow; cyborg samurai
    """),
    "creature_action": _words("""
        guarding a pile of {fruit:plural}; rising from the sea; reading by candlelight; casting
        a spell; sleeping on a mountain of coins; crossing a bridge of light; selling potions at
        a market; playing chess with a child; emerging from a portal; holding a glowing
        {object}; flying above the clouds; drinking tea with a knight; waiting for a train;
        carving a huge stone
    """),
    "fantasy_place": _words("""
        in a city on the back of a turtle; in a forest of giant mushrooms; on a floating island;
        inside a crystal cave; on a planet with two moons; in a palace under the sea; in a
        library without end; among the ruins of a lost kingdom; in a steampunk workshop; in a
        neon-lit future city; on a road made of clouds; at the gate of a dwarven mine
    """),
    # places
    "outdoors": _words("""
        in a narrow alley; on a windy beach; in a pine forest; on a mountain pass; in a rice
        field; at a busy street market; by a frozen lake; in a desert; in a city park; in a rose
        garden; on a rocky coast; in a bamboo grove; at a bus stop; in a wheat field; beside a
        waterfall; on a suspension bridge; in a vineyard; in a village square; in a swamp; on a
        tropical island; in a playground; at a harbour; on a railway platform; at a crossroads;
        in the savanna
    """),
    "indoors": _words("""
        in a cluttered workshop; in a sunlit kitchen; in an old library; in an empty theatre; in
        a crowded cafe; in a greenhouse; in a hospital corridor; in a barber shop; on a night
        train; in a laboratory; in a dusty attic; in a recording studio; in a supermarket aisle;
        in a lift; in a minimalist living room; in a laundrette; in a wine cellar; in a museum;
        in a classroom; in a boxing gym; in a spaceship cockpit; in a bakery
    """),
    "city": _words("""
        Lagos; Kyoto; Venice; Istanbul; Mexico City; Reykjavik; Mumbai; Cairo; Buenos Aires;
        Hanoi; Marrakesh; Prague; New York; Havana; Seoul; Lisbon; Nairobi; Samarkand; Sydney;
        Edinburgh; Shanghai; Jerusalem; Rio de Janeiro; Tbilisi; Amsterdam; Cusco
    """),
    "region": _words("""
        the Scottish Highlands; Patagonia; the Sahara; the Norwegian fjords; the Himalayas;
        Tuscany; the Amazon; Iceland; the Australian outback; Siberia; Cappadocia; the
        Serengeti; Hokkaido; the Rocky Mountains; Madagascar; the Mekong Delta; Provence; the
        Andes; Antarctica; Kerala
    """),
    "landscape": _words("""
        river valley; glacier; volcano; canyon; salt flat; coral reef; terraced hillside;
        meadow; waterfall; fjord; mangrove forest; chain of islands; dune field; birch forest;
        hot spring; coastline; mountain lake; moor; limestone cave; tea plantation
    """),
    "landscape_detail": _words("""
        a lone hiker in the distance; grazing sheep; a winding dirt road; a flock of birds; a
        small wooden jetty; scattered boulders; a rainbow; an abandoned rowing boat; wild
        flowers in the foreground; smoke rising from a chimney; a herd of wild horses; power
        lines
    """),
    # time, weather and light
    "time": _words("""
        at dawn; at sunrise; early in the morning; at noon; in the late afternoon; at sunset; at
        dusk; at night; at midnight; during the blue hour; on a winter day; on an autumn
        evening; on a spring morning; in midsummer
    """),
    "weather": _words("""
        in light rain; in heavy rain; in thick fog; under a clear sky; under a cloudy sky; in a
        strong wind; after a thunderstorm; in drizzle; under dark clouds; in thin mist; just
        before a storm; with lightning on the horizon
    """),
    "light": _words("""
        soft light; warm light; cold blue light; strong contrast; dramatic shadows; rim
        lighting; light from the side; diffuse light; backlighting; muted light; glowing
        highlights; low-key lighting; high-key lighting; dappled light; volumetric light
    """),
    "lamps": _words("""
        lit by candles; under neon lights; under a bare light bulb; in the light of a screen;
        under fluorescent tubes; lit by a fireplace; in light from a tall window; under paper
        lanterns; under a single spotlight; in the glow of fairy lights
    """),
    # pictures
    "photograph": _words("""
        a photograph; a black and white photograph; a film photograph; a documentary photograph;
        an instant photograph; a magazine photograph; a candid photo; a professional photo; a
        faded old photograph; a smartphone snapshot; a long-exposure photograph; a sharp colour
        photo
    """),
    "artwork": _words("""
        an oil painting; a watercolour; a charcoal drawing; a pencil sketch; a 3D render; pixel
        art; a line drawing; a woodcut; a children's book illustration; a comic panel; a linocut
        print; an ink wash painting; a mosaic; a pastel drawing; a low-poly model; a paper
        collage; a clay animation still; an anime still; a stained-glass window; an embroidery;
        a fresco; a vector illustration; an isometric illustration; a graffiti mural; a marble
        relief; an impressionist painting; a cubist painting; a surrealist painting; a pop art
        print; a technical blueprint; a medieval manuscript illustration; a vintage travel
        poster; an etching; a crayon drawing by a child; a screenshot from an old video game; a
        hologram
    """),
    "medium": _words("""
        oil on canvas; digital painting; pixel art; flat vector art; watercolour on rough paper;
        cel shading; black ink on white paper; 3D render; screen print; claymation; chalk on
        slate; gouache; cross-stitch; concept art; risograph print; origami; sticker design;
        silhouette art; coloured pencil; matte painting
    """),
    "camera": _words("""
        shallow depth of field; 35 mm lens; 85 mm lens; fisheye lens; macro lens; telephoto
        lens; motion blur; film grain; tilt-shift effect; everything in focus; slight lens
        flare; blurred background; long exposure; light leaks
    """),
    "composition": _words("""
        seen from above; seen from a low angle; centred in the frame; from a distance; in
        close-up; with a symmetrical composition; placed in the lower left corner; with plenty
        of empty space; through a round window; in a wide view; in profile; from behind;
        reflected in a puddle; at a tilted angle; at eye level; framed by leaves
    """),
    "mood": _words("""
        peaceful mood; gloomy mood; cheerful mood; mysterious mood; lonely mood; festive mood;
        epic mood; dreamlike mood; tense mood; playful mood; melancholic mood; cosy mood
    """),
    "detail": _words("""
        highly detailed; simple shapes; rich textures; clean lines; visible brushstrokes; rough
        edges; bold outlines; intricate details; few details; smooth gradients
    """),
    # counts, text and relations
    "number": _words("two; three; four; five; six; seven; eight; nine; ten; a dozen"),
    "number_more": _words("two; three; four; five; six; seven"),
    "sign": _words("""
        sign; neon sign; chalkboard; poster; billboard; T-shirt; book cover; postcard; coffee
        mug; street sign; banner; wooden plaque; paper note; shop window; cake; protest sign;
        sticker
    """),
    "text": (
        *("OPEN", "HELLO", "SORRY, WE ARE CLOSED", "Fresh Bread", "NO PARKING", "LOVE", "Welcome"),
        *("Happy Birthday, Maya!", "EXIT", "FOR SALE", "1984", "Keep Left", "Hotel Aurora", "42"),
        *("Good morning", "TO THE MOON", "Be kind", "Jazz Tonight", "SALE: 50% OFF", "Wet paint"),
        *("Thank you", "Platform 9", "Ready, steady, go!", "Lost Cat", "DO NOT TOUCH", "Est. 1887"),
        *("Soup of the day", "Ask me anything", "Mind the step", "Library", "NEXT STOP: MARS"),
    ),
    "lettering": _words("""
        large {colour} letters; neat handwriting; bold block capitals; curly script; {colour}
        neon tubes; chalk; gold lettering; pixel letters; dripping paint; typewriter letters
    """),
    "relation": _words("""
        to the left of; to the right of; behind; in front of; next to; on top of; underneath
    """),
    "object_look": _words("dusty; antique; broken; tiny; oversized; hand-made; cracked; shiny"),
    "creature_look": _words("ancient; newborn; shy; gigantic; one-eyed; sleepy; wounded; cheerful"),
    "made_of": _words("""
        glass; autumn leaves; ice; gears; gingerbread; folded paper; smoke; stars; driftwood;
        wool; toy bricks; chocolate; flowers; marble; liquid metal; bread; circuit boards; sand
    """),
    "form": _words(
        "circle; triangle; cube; spiral; wave; hexagon; ribbon; sphere; arrow; square; cone"
    ),
}

WORDS["a_colour"] = tuple(f"a/an {colour}" for colour in WORDS["colour"])
